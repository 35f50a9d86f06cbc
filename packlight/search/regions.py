"""Which kernels to run in low precision, from what each takes in either precision and what conversions cost.

Kernels are nodes of a network with two labels; a value that is written in one precision and read in the other pays
for its conversion, once for all its readers. The cheapest labelling is a minimum cut (Greig, Porteous, Seheult 1989,
section 2; a conversion shared by several readers is one more node).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.numerics import Numerics
from packlight.model.operators import packet
from packlight.model.shapes import propagate
from packlight.passes.quantize.placement import Kernel, Placement, place

_UNITS = 10**8  # integers that the whole cost is counted in


@dataclass(frozen=True)
class Passed:
    """A value between kernels. writer: the kernel that writes it, None where it is float in any case. readers: kernels
    that can read it in low precision. beyond: float operators read it, too. widens: a low-precision writer's result
    has to be converted for them. shape: of it."""

    writer: int | None
    readers: tuple[int, ...]
    beyond: bool
    widens: bool
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """The low-precision kernels of a network. names: each one's layer. parts: the layers that it computes. signatures:
    JSON values, equal where kernels would take as long on one machine. weighted: whether it has a weight."""

    names: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    signatures: tuple[Any, ...]
    weighted: tuple[bool, ...]
    passed: tuple[Passed, ...]


def kernels_of(model: Model, numerics: Numerics, exclude: Sequence[str], batch: int) -> Region:
    """What a target would run in low precision of a folded float Model, and how its values pass."""
    model = model.copy(share_tensors=True)
    placement = place(model, numerics, exclude)
    axis = model.inputs[0].shape[0] if model.inputs and model.inputs[0].shape else None
    propagate(model, **({axis: batch} if isinstance(axis, str) else {}))
    kernels = sorted(placement.kernels, key=lambda k: list(model.nodes).index(k.first))
    return Region(
        tuple(model.layer(k.first) for k in kernels),
        tuple(tuple(dict.fromkeys((model.layer(k.first), model.layer(k.last)))) for k in kernels),
        tuple(_signature(k) for k in kernels),
        tuple(k.group.weighted for k in kernels),
        tuple(_passed(placement, kernels)),
    )


def _passed(placement: Placement, kernels: Sequence[Kernel]) -> list[Passed]:
    writers = {k.last: i for i, k in enumerate(kernels)}
    readers: dict[Node, list[int]] = {}
    for i, kernel in enumerate(kernels):
        for value in kernel.inputs:
            readers.setdefault(placement.root(value), []).append(i)
    found = []
    for value in dict.fromkeys([*writers, *readers]):
        writer = writers.get(value)
        known = {kernels[i].first for i in readers.get(value, ())}
        found.append(Passed(
            writer, tuple(readers.get(value, ())), _leaves(value, placement, known),
            writer is not None and kernels[writer].group.output, _shape(value),
        ))  # fmt: skip
    return found


def _leaves(value: Node, placement: Placement, known: set[Node]) -> bool:
    """Whether an operator that is no kernel reads a value, be it through operators that hand on its scale."""
    return any(
        _leaves(user, placement, known) if placement.inherits.get(user) is value else user not in known
        for user in value.users
    )


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(int(n) for n in value.shape) if isinstance(value, Tensor) else ()


def _signature(kernel: Kernel) -> Any:
    """What a kernel's time depends on: its operators, sizes and settings, and the operators around it, which a runtime
    may compute together with it."""
    settings = [repr(a) for a in kernel.first.args if not isinstance(a, Node)]
    shapes = [_shape(n) for n in (*kernel.first.all_input_nodes, kernel.last)]
    before = sorted(packet(n) for n in kernel.inputs)
    after = sorted(packet(n) for n in kernel.last.users)
    operators = list(dict.fromkeys((packet(kernel.first), packet(kernel.last))))
    return [operators, shapes, settings, sorted(map(repr, kernel.first.kwargs.items())), before, after]


def slow_kernels(
    region: Region,
    low: Sequence[float],
    full: Sequence[float],
    convert: Mapping[tuple[int, ...], tuple[float, float]],
    margin: float,
) -> list[int]:
    """The kernels that had better stay in float.

    low, full: seconds of each kernel in low precision and in float; 0 in float where another kernel computes it on the
    way. convert: shape → seconds to quantize and to dequantize a value. margin: >= 0, the share by which float must be
    faster to be preferred.
    """
    count = len(region.names)
    network = _Network(count + 2)
    source, sink = count, count + 1
    for i in range(count):
        network.edge(i, sink, low[i])
        network.edge(source, i, full[i] * (1 + margin))
    for a, b in _together(region, full):
        network.edge(a, b, None)
        network.edge(b, a, None)
    for value in region.passed:
        narrow, widen = convert.get(value.shape, (0.0, 0.0))
        narrowed = network.node()
        for reader in value.readers:
            network.edge(reader, narrowed, None)
        network.edge(narrowed, sink if value.writer is None else value.writer, narrow)
        if value.writer is not None and value.widens:
            if value.beyond:
                network.edge(value.writer, sink, widen)
                continue
            widened = network.node()
            network.edge(value.writer, widened, widen)
            for reader in value.readers:
                network.edge(widened, reader, None)
    kept = network.cut(source, sink)
    return [i for i in range(count) if i not in kept]


def _together(region: Region, full: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of kernels that the runtime computes as one in float: it shows no time for one of them. A layer with
    weights goes with what reads it, another operator with the last that it reads."""
    found = []
    for i, seconds in enumerate(full):
        if seconds > 0:
            continue
        if region.weighted[i]:
            others = [r for v in region.passed if v.writer == i for r in v.readers]
        else:
            others = [v.writer for v in region.passed if i in v.readers and v.writer is not None]
        if others:
            found.append((i, min(others) if region.weighted[i] else max(others)))
    return found


class _Network:
    """Edges with capacities in seconds, None for what must not be cut; parallel ones add up."""

    def __init__(self, nodes: int):
        self.nodes = nodes
        self.edges: dict[tuple[int, int], float | None] = {}

    def node(self) -> int:
        self.nodes += 1
        return self.nodes - 1

    def edge(self, a: int, b: int, capacity: float | None) -> None:
        before = self.edges.get((a, b), 0.0)
        self.edges[a, b] = None if capacity is None or before is None else before + capacity

    def cut(self, source: int, sink: int) -> set[int]:
        """The nodes on the source's side of a minimum cut, as few as can be."""
        unit = sum(c for c in self.edges.values() if c is not None) / _UNITS or 1.0
        capacities = [2 * _UNITS if c is None else round(c / unit) for c in self.edges.values()]
        rows, columns = np.array(list(self.edges), np.int32).T
        shape = (self.nodes, self.nodes)
        matrix = csr_array((np.array(capacities, np.int32), (rows, columns)), shape=shape)
        left = csr_array(matrix - maximum_flow(matrix, source, sink).flow)
        left.eliminate_zeros()
        reached = breadth_first_order(left, source, return_predecessors=False)
        return {int(n) for n in reached}

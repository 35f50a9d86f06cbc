"""What a network costs when some of it is gone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from packlight.model.operators import macs
from packlight.model.shapes import propagate, shape_of
from packlight.passes.prune.groups import Flags, Groups
from packlight.passes.prune.labels import Array
from packlight.passes.prune.walk import Labelled, sizes_along


def share_left(groups: Groups, by: str, gone: Flags) -> float | None:
    """The share of params, macs or bytes that stays; None of what is not counted."""
    if by not in COSTS:
        return None
    cost = COSTS[by](groups)
    whole = cost(np.zeros(groups.count, bool))
    return cost(gone) / whole if whole else 1.0


def params_left(groups: Groups) -> Callable[[Flags], float]:
    """The parameters that stay when classes are gone."""
    names = {n for n, _ in groups.labelled.model.named_parameters()}
    return _elements(groups, dict.fromkeys(names, 1))


def _bytes(groups: Groups) -> Callable[[Flags], float]:
    return _elements(groups, {n: t.element_size() for n, t in groups.labelled.model.named_tensors().items()})


def _elements(groups: Groups, weights: Mapping[str, int]) -> Callable[[Flags], float]:
    """The elements of tensors, each times its weight."""
    nodes = {str(n.target): n for n in groups.labelled.layouts if n.op == "get_attr"}
    wanted = [(w, shape_of(nodes[n]), groups.labelled.layouts[nodes[n]]) for n, w in weights.items() if n in nodes]

    def cost(gone: Flags) -> float:
        alive = groups.alive(gone)
        return float(sum(w * math.prod(_after(shape, shape, layout, alive)) for w, shape, layout in wanted))

    return cost


def _macs(groups: Groups) -> Callable[[Flags], float]:
    labelled = groups.labelled
    seen = {node: shape_of(node) for node in labelled.layouts}
    real = _usual_shapes(labelled)
    nodes = [n for n in labelled.layouts if n.op == "call_function" and macs(n, lambda x: real.get(x, ()))]

    def cost(gone: Flags) -> float:
        alive = groups.alive(gone)

        def shape(value: Any) -> tuple[int, ...]:
            layout = labelled.layouts.get(value, ()) if isinstance(value, Node) else ()
            if isinstance(layout, list):
                return real.get(value, ())
            return _after(seen.get(value, ()), real.get(value, ()), layout, alive)

        return float(sum(macs(n, shape) for n in nodes))

    return cost


def _usual_shapes(labelled: Labelled) -> dict[Node, tuple[int, ...]]:
    """Shapes at batch 1 and the sizes seen at export."""
    twin = labelled.model.copy(share_tensors=True)
    propagate(twin, **({"batch": 1} if "batch" in twin.dims else {}))
    return {mine: shape_of(theirs) for mine, theirs in zip(labelled.layouts, twin.nodes, strict=True)}


def _after(seen: Sequence[int], real: Sequence[int], layout: Any, alive: Array) -> tuple[int, ...]:
    if not layout:
        return tuple(real)
    return tuple(
        r if axis is None else max(1, r * sizes_along(axis, alive) // s)
        for s, r, axis in zip(seen, real, layout, strict=True)
    )


COSTS: dict[str, Callable[[Groups], Callable[[Flags], float]]] = {
    "params": params_left, "macs": _macs, "bytes": _bytes,
}  # fmt: skip
BY = ("params", "macs", "bytes", "channels", "latency")

"""The cut itself: tensors lose what is dead, and sizes that stand in the graph follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import PYTHON_FUNCTIONS, argument, packet, set_argument
from packlight.model.shapes import propagate, shape_of
from packlight.passes.prune.labels import Array, Axis, Layout
from packlight.passes.prune.rules.parts import bounds_of
from packlight.passes.prune.rules.table import axis_of
from packlight.passes.prune.walk import Labelled, sizes_along

_SIZED = {"view": "size", "reshape": "shape", "_unsafe_view": "size", "view_copy": "size", "expand": "size",
          "broadcast_to": "size", "zeros": "size", "ones": "size", "full": "size", "empty": "size",
          "new_zeros": "size", "new_ones": "size", "new_full": "size", "new_empty": "size"}  # fmt: skip
_ATEN = torch.ops.aten


def cut(labelled: Labelled, alive: Array) -> Model:
    """Cut a labelled Model (in place) and return it. alive: [labels], 1 where a label lives, 0 where it goes."""
    model = labelled.model
    for node in model.nodes:
        if node.target is _ATEN.view.default:  # strides of what it views may be others now
            node.target = _ATEN.reshape.default
    old = {node: shape_of(node) for node in labelled.layouts}
    for node, found in labelled.layouts.items():
        if node.op == "call_function":
            _Sizes(labelled, alive, old).follow(node, found)
    _cut_tensors(labelled, alive)
    return propagate(model.tidy())


def shape_after(layout: Layout, shape: tuple[int, ...], alive: Array) -> list[int]:
    """The shape of a value when what is dead is gone."""
    return [n if axis is None else sizes_along(axis, alive) for n, axis in zip(shape, layout, strict=True)]


def kept(axis: Axis, alive: Array) -> Array:
    """Positions along an axis that live: [n], or [living rows, n] where the axis depends on others."""
    living = alive[axis.labels] > 0
    if not axis.on:
        return np.flatnonzero(living)
    assert axis.rows is not None
    flat = living.reshape(axis.rows.size, -1)[alive[axis.rows.reshape(-1)] > 0]
    return np.stack([np.flatnonzero(row) for row in flat])


# tensors


def _cut_tensors(labelled: Labelled, alive: Array) -> None:
    model = labelled.model
    norms = {n: _gain(labelled, n, alive) for n in labelled.layouts if packet(n).startswith("_weight_norm")}
    layouts = {str(n.target): layout for n, layout in labelled.layouts.items() if n.op == "get_attr"}
    done: dict[int, Tensor] = {}
    for name, tensor in model.named_tensors().items():
        if id(tensor) not in done:
            done[id(tensor)] = _replaced(tensor, smaller(tensor.detach(), layouts.get(name, ()), alive))
        _put(model, name, done[id(tensor)])
    for node, gain in norms.items():
        with torch.no_grad():
            model.tensor(node.args[1]).mul_(gain)  # type: ignore[arg-type]


def _replaced(tensor: Tensor, value: Tensor) -> Tensor:
    if value.shape == tensor.shape:
        return tensor
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _put(model: Model, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.graph_module.get_submodule(owner)
    held: Any = module._parameters if isinstance(value, nn.Parameter) else module._buffers
    held[leaf] = value


def smaller(tensor: Tensor, layout: Layout, alive: Array) -> Tensor:
    """The tensor without what is dead along its axes."""
    for a, axis in enumerate(layout):
        if axis is not None and not axis.on:
            index = kept(axis, alive)
            if len(index) < tensor.shape[a]:
                tensor = tensor.index_select(a, torch.from_numpy(index).to(tensor.device))
    for a, axis in enumerate(layout):
        if axis is not None and axis.on:  # rows of axis 0 keep different positions of axis 1
            rows = torch.from_numpy(kept(axis, alive)).to(tensor.device)
            spread = rows.reshape(*rows.shape, *[1] * (tensor.dim() - 2)).expand(-1, -1, *tensor.shape[2:])
            tensor = tensor.take_along_dim(spread, a)
    return tensor.contiguous().clone()


def _gain(labelled: Labelled, node: Node, alive: Array) -> Tensor:
    """What a normalised weight's length must be multiplied by so that the positions that stay keep their values."""
    source: Any = node.args[0]
    layout, v = labelled.layouts[source], labelled.model.tensor(source).detach()
    at = axis_of(argument(node, "dim"), v.dim())
    axes = [a for a in range(v.dim()) if a != at]
    before = torch.linalg.vector_norm(v, dim=axes, keepdim=True)
    only = tuple(axis if a == at else None for a, axis in enumerate(layout))
    return torch.linalg.vector_norm(smaller(v, layout, alive), dim=axes, keepdim=True) / smaller(before, only, alive)


# sizes in the graph


class _Sizes:
    """Rewrites the arguments of one operator. old: shapes before the cut."""

    def __init__(self, labelled: Labelled, alive: Array, old: dict[Node, tuple[int, ...]]):
        self.labelled, self.alive, self.old = labelled, alive, old
        self.graph = labelled.model.graph_module.graph

    def layout(self, node: Any) -> Layout:
        found: Layout = self.labelled.layouts[node]
        return found

    def follow(self, node: Node, found: Any) -> None:
        name = packet(node)
        if name in _SIZED:
            self._sizes(node, _SIZED[name], found)
        elif name == "unflatten":
            self._unflattened(node, found)
        elif name in ("split", "split_with_sizes", "chunk", "tensor_split"):
            self._pieces(node, found)
        elif name in ("slice", "narrow", "slice_scatter"):
            self._slice(node)
        elif name.startswith("conv"):
            self._groups(node, "groups")
        elif name == "group_norm":
            self._groups(node, "num_groups")
        elif name == "channel_shuffle":
            self._groups(node, "groups")
        elif name in ("layer_norm", "rms_norm"):
            given = argument(node, "normalized_shape")
            set_argument(node, "normalized_shape", self._new(node, found)[-len(given) :])
        elif name in ("pad", "constant_pad_nd"):
            self._padding(node, found)
        elif name == "scaled_dot_product_attention":
            query: Any = node.args[0]
            if argument(node, "scale") is None and self._new(query, self.layout(query))[-1] != self.old[query][-1]:
                set_argument(node, "scale", self.old[query][-1] ** -0.5)

    def _new(self, node: Node, layout: Layout) -> list[int]:
        return shape_after(layout, self.old[node], self.alive)

    def _sizes(self, node: Node, name: str, layout: Layout) -> None:
        given = list(argument(node, name))
        new, old = self._new(node, layout), self.old[node]
        for a, size in enumerate(given):
            if new[a] == old[a] or size == -1:
                continue
            given[a] = self._scaled(node, size, new[a], old[a]) if isinstance(size, Node) else new[a]
        set_argument(node, name, given)

    def _scaled(self, node: Node, size: Node, new: int, old: int) -> Node:
        """size · new / old, where a size of an input is a factor of size, new and old."""
        common = int(np.gcd(new, old))
        with self.graph.inserting_before(node):
            times = self.graph.call_function(PYTHON_FUNCTIONS["mul"], (size, new // common))
            return self.graph.call_function(PYTHON_FUNCTIONS["floordiv"], (times, old // common))

    def _unflattened(self, node: Node, layout: Layout) -> None:
        given = list(argument(node, "sizes"))
        at = axis_of(argument(node, "dim"), len(self.old[node.args[0]]))  # type: ignore[index]
        new = self._new(node, layout)[at : at + len(given)]
        changed = [n if g != -1 and not isinstance(g, Node) else g for g, n in zip(given, new, strict=True)]
        set_argument(node, "sizes", changed)

    def _pieces(self, node: Node, layouts: list[Layout]) -> None:
        source: Any = node.args[0]
        at = axis_of(argument(node, "dim"), len(self.old[source]))
        if self.layout(source)[at] is None:
            return
        axes = [layout[at] for layout in layouts]
        sizes = [sizes_along(axis, self.alive) for axis in axes if axis is not None]
        if sizes != [v.shape[at] for v in node.meta["val"]]:
            node.target = _ATEN.split_with_sizes.default
            node.args, node.kwargs = (source, sizes, at), {}

    def _slice(self, node: Node) -> None:
        source: Any = node.args[0]
        at = axis_of(argument(node, "dim"), len(self.old[source]))
        axis, size = self.layout(source)[at], self.old[source][at]
        bounds = bounds_of(node, size)
        if axis is None or bounds is None or sizes_along(axis, self.alive) == size:
            return
        first, last = (sizes_along(_until(axis, b), self.alive) for b in bounds[:2])
        set_argument(node, "start", first)
        if packet(node) == "narrow":
            set_argument(node, "length", last - first)
        elif bounds[1] < size:
            set_argument(node, "end", last)

    def _groups(self, node: Node, name: str) -> None:
        source: Any = node.args[0]
        axis, groups = self.layout(source)[1], int(argument(node, name))
        if groups > 1 and axis is not None and not axis.on:
            rows = self.alive[axis.labels].reshape(groups, -1)
            set_argument(node, name, int((rows.sum(axis=1) > 0).sum()))

    def _padding(self, node: Node, layout: Layout) -> None:
        given, source = list(argument(node, "pad")), self.labelled.layouts[node.args[0]]  # type: ignore[index]
        for i in range(0, len(given), 2):
            a = len(layout) - 1 - i // 2
            axis = layout[a]
            if axis is not None and source[a] is not None and (given[i] or given[i + 1]):
                live = self.alive[axis.labels]
                ends = live[: given[i]], live[len(live) - given[i + 1] :]
                given[i : i + 2] = [int(e.sum()) for e in ends]
        set_argument(node, "pad", given)


def _until(axis: Axis, end: int) -> Axis:
    return Axis(axis.labels[..., :end], axis.on, axis.rows)

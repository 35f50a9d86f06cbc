"""Operators that move values: views, permutations, joins, spreads."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from packlight.model.operators import argument, packet
from packlight.passes.prune.labels import Axis, Layout, reshape
from packlight.passes.prune.rules.table import Walk, axis_of, rule


@rule("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as", "squeeze", "unsqueeze",
      "squeeze_copy", "unsqueeze_copy", "view_copy", "ravel")  # fmt: skip
def reshaped(walk: Walk, node: Node) -> Layout:
    x: Any = node.args[0]
    return reshape(walk.labels, walk.layout(x), walk.shape(x), walk.shape(node))


@rule("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "numpy_T", "adjoint")
def permuted(walk: Walk, node: Node) -> Layout:
    layout = walk.layout(node.args[0])
    order = _order(node, len(layout))
    to = {a: i for i, a in enumerate(order)}
    return tuple(walk.renumbered(layout[a], to) for a in order)


def _order(node: Node, rank: int) -> list[int]:
    order = list(range(rank))
    match packet(node):
        case "permute":
            return [axis_of(d, rank) for d in argument(node, "dims")]
        case "transpose" | "swapaxes" | "swapdims":
            a, b = (axis_of(d, rank) for d in node.args[1:3])
            order[a], order[b] = order[b], order[a]
        case "mT" | "adjoint":
            order[-2:] = order[:-3:-1]
        case "movedim" | "moveaxis":
            given: Any = node.args[1:3]
            source, target = (
                [axis_of(d, rank) for d in (dims if isinstance(dims, list | tuple) else [dims])] for dims in given
            )
            rest = iter(a for a in order if a not in source)
            return [source[target.index(a)] if a in target else next(rest) for a in order]
        case _:
            order.reverse()
    return order


@rule("flip")
def flip(walk: Walk, node: Node) -> Layout:
    layout = list(walk.layout(node.args[0]))
    for dim in argument(node, "dims"):
        a = axis_of(dim, len(layout))
        axis = layout[a]
        if axis is not None:
            layout[a] = Axis(walk.labels.plain(axis)[::-1])
        for b, other in enumerate(layout):
            if other is not None and a in other.on:
                layout[b] = Axis(walk.labels.plain(other))
    return tuple(layout)


@rule("roll")
def roll(walk: Walk, node: Node) -> Layout:
    layout = walk.layout(node.args[0])
    walk.freeze([layout[axis_of(d, len(layout))] for d in argument(node, "dims")] or layout, walk.why(node))
    return layout


# joins


@rule("cat", "concat", "concatenate")
def joined(walk: Walk, node: Node) -> Layout:
    tensors: list[Any] = [t for t in node.args[0] if walk.shape(t) != (0,)]  # type: ignore[union-attr]
    rank = len(walk.shape(node))
    at = axis_of(argument(node, "dim"), rank)
    layouts = [list(walk.layout(t)) for t in tensors]
    sizes = [walk.shape(t)[at] for t in tensors]
    made: list[Axis | None] = []
    for a in range(rank):
        axes = [layout[a] for layout in layouts]
        if a == at:
            made.append(_end_to_end(walk, node, axes, sizes))
        elif all(x is not None and at in x.on and x.on == axes[0].on for x in axes):  # type: ignore[union-attr]
            made.append(_stacked_rows(walk, axes, at))  # type: ignore[arg-type]
        else:
            axes = [x if x is None or at not in x.on else Axis(walk.labels.plain(x)) for x in axes]
            labelled = [x for x in axes if x is not None]
            one = labelled[0] if labelled else None
            for other in labelled[1:]:
                one = walk.labels.align(one, other)  # type: ignore[arg-type]
            if len(labelled) < len(axes):
                walk.freeze(labelled, walk.why(node))
            made.append(one)
    return tuple(made)


def _end_to_end(walk: Walk, node: Node, axes: list[Axis | None], sizes: list[int]) -> Axis | None:
    labelled = [x for x in axes if x is not None]
    if not labelled:
        return None
    first = labelled[0]
    filled: list[Axis] = []
    for axis, size in zip(axes, sizes, strict=True):
        if axis is None:
            labels = walk.labels.fresh(size)
            walk.labels.freeze(labels, walk.why(node))
            filled.append(Axis(labels))
        else:
            filled.append(axis)
    if all(x.on == first.on and x.labels.shape[:-1] == first.labels.shape[:-1] for x in filled):
        if first.on:
            for x in filled[1:]:
                walk.labels.tie(first.rows, x.rows)  # type: ignore[arg-type]
        return Axis(np.concatenate([x.labels for x in filled], axis=-1), first.on, first.rows)
    return Axis(np.concatenate([walk.labels.plain(x) for x in filled]))


def _stacked_rows(walk: Walk, axes: list[Axis], at: int) -> Axis:
    """Rows of labels below each other, all of which lose equally many."""
    where = axes[0].on.index(at)
    cells = np.concatenate([x.labels for x in axes], axis=where)
    rows = np.concatenate([x.rows for x in axes], axis=where)
    walk.labels.block(cells, rows)
    return Axis(cells, axes[0].on, rows)


@rule("stack")
def stacked(walk: Walk, node: Node) -> Layout:
    tensors: Any = node.args[0]
    layout = walk.elementwise(node, tensors)
    at = axis_of(argument(node, "dim"), len(layout) + 1)
    to = {a: a + (a >= at) for a in range(len(layout))}
    moved = [walk.renumbered(x, to) for x in layout]
    return (*moved[:at], None, *moved[at:])


# spreads: a value that is the same at all positions can lose any of them


@rule("expand", "expand_as", "broadcast_to")
def expanded(walk: Walk, node: Node) -> Layout:
    x: Any = node.args[0]
    layout, sizes, to = walk.layout(x), walk.shape(x), walk.shape(node)
    more = len(to) - len(sizes)
    moved = [walk.renumbered(axis, {a: a + more for a in range(len(sizes))}) for axis in layout]
    literal = _literal(node, len(to))
    model = walk.layout(node.args[1]) if packet(node) == "expand_as" else (None,) * len(to)
    made: list[Axis | None] = []
    for a, size in enumerate(to):
        axis = model[a]  # the size is this one's
        if a >= more and sizes[a - more] == size:
            made.append(moved[a - more])
        elif axis is not None:
            made.append(Axis(walk.labels.plain(axis)))
        else:
            made.append(Axis(walk.labels.fresh(size)) if size > 1 and literal[a] else None)
    return tuple(made)


def _literal(node: Node, rank: int) -> list[bool]:
    """Whether each size of the value stands in the graph as a number."""
    if packet(node) == "expand_as":
        return [False] * rank
    given: Any = node.args[1]
    return [not isinstance(s, Node) and s != -1 for s in given]


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def created(walk: Walk, node: Node) -> Layout:
    sizes = argument(node, "size")
    return tuple(Axis(walk.labels.fresh(s)) if isinstance(s, int) and s > 1 else None for s in sizes)


@rule("zeros_like", "ones_like", "full_like", "empty_like")
def like(walk: Walk, node: Node) -> Layout:
    return walk.layout(node.args[0])


@rule("repeat", "tile")
def repeated(walk: Walk, node: Node) -> Layout | None:
    x: Any = node.args[0]
    layout, sizes, to = walk.layout(x), walk.shape(x), walk.shape(node)
    more = len(to) - len(sizes)
    if any(a is not None and a.on for a in layout):
        return None
    times = [size // (sizes[a - more] if a >= more else 1) for a, size in enumerate(to)]
    made: list[Axis | None] = []
    for a, n in enumerate(times):
        axis = layout[a - more] if a >= more else None
        made.append(None if axis is None else Axis(np.tile(axis.labels, n)))
    return tuple(made)


@rule("repeat_interleave")
def interleaved(walk: Walk, node: Node) -> Layout | None:
    x: Any = node.args[0]
    layout, sizes, dim = walk.layout(x), walk.shape(x), argument(node, "dim")
    if dim is None or not isinstance(node.args[1], int):
        return None
    at, times = axis_of(dim, len(sizes)), node.args[1]
    made = list(layout)
    for a, axis in enumerate(layout):
        if axis is not None and a == at:
            made[a] = Axis(np.repeat(axis.labels, times, axis=-1), axis.on, axis.rows)
        elif axis is not None and at in axis.on:
            where = axis.on.index(at)
            rows = np.repeat(axis.rows, times, axis=where) if axis.rows is not None else None
            made[a] = Axis(np.repeat(axis.labels, times, axis=where), axis.on, rows)
    return tuple(made)

"""Operators that take parts of a value, or replace parts of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import numpy as np
from torch.fx import Node

from packlight.model.operators import argument, packet
from packlight.passes.prune.labels import Axis, Layout, taken
from packlight.passes.prune.rules.table import Walk, axis_of, rule


@rule("slice", "narrow")
def sliced(walk: Walk, node: Node) -> Layout:
    x: Any = node.args[0]
    layout, sizes = walk.layout(x), walk.shape(x)
    at = axis_of(argument(node, "dim"), len(sizes))
    bounds = bounds_of(node, sizes[at])
    if bounds is None or bounds[2] != 1:
        if walk.shape(node)[at] == sizes[at]:
            return layout  # all of it, whatever the size
        walk.freeze([layout[at]], walk.why(node))
        return cut_along(walk, layout, at, None)
    return cut_along(walk, layout, at, slice(bounds[0], bounds[1]))


def bounds_of(node: Node, size: int) -> tuple[int, int, int] | None:
    """First, end and step of a slice in whole numbers; None where they follow from the sizes of inputs."""
    if packet(node) == "narrow":
        start, length = argument(node, "start"), argument(node, "length")
        given: tuple[Any, ...] = (start, None if isinstance(length, Node) else length, 1)
        if isinstance(start, Node) or given[1] is None:
            return None
        start = start + size if start < 0 else start
        return start, start + length, 1
    given = tuple(argument(node, n) for n in ("start", "end", "step"))
    if any(isinstance(g, Node) for g in given):
        return None
    return slice(*given).indices(size)


def cut_along(walk: Walk, layout: Layout, at: int, part: slice | None) -> Layout:
    """The layout of the positions in `part` along an axis; None: of some, which ones is not known."""
    made = list(layout)
    for a, axis in enumerate(layout):
        if axis is None:
            continue
        if a == at:
            made[a] = None if part is None else _part(walk, axis, part)
        elif at in axis.on:
            where = axis.on.index(at)
            if part is None:
                made[a] = Axis(walk.labels.plain(axis))
                continue
            index = np.arange(axis.labels.shape[where])[part]
            rows = taken(axis.rows, index, where) if axis.rows is not None else None
            made[a] = Axis(taken(axis.labels, index, where), axis.on, rows)
    return tuple(made)


def _part(walk: Walk, axis: Axis, part: slice) -> Axis:
    if axis.rows is not None:  # each piece of every row loses equally many
        for piece in (slice(0, part.start), part, slice(part.stop, None)):
            walk.labels.block(axis.labels[..., piece], axis.rows)
    return Axis(axis.labels[..., part], axis.on, axis.rows)


@rule("select")
def selected(walk: Walk, node: Node) -> Layout:
    layout = walk.layout(node.args[0])
    at, index = axis_of(argument(node, "dim"), len(layout)), argument(node, "index")
    walk.freeze([layout[at]], walk.why(node))
    return at_position(walk, layout, at, None if isinstance(index, Node) else index)


def at_position(walk: Walk, layout: Layout, at: int, index: int | None) -> Layout:
    """The layout at one position of an axis, which goes."""
    made: list[Axis | None] = []
    to = {a: a - (a > at) for a in range(len(layout)) if a != at}
    for a, axis in enumerate(layout):
        if a == at:
            continue
        if axis is not None and at in axis.on and index is not None:
            where = axis.on.index(at)
            on = tuple(to[p] for p in axis.on if p != at)
            rows = taken(axis.rows, index, where) if on and axis.rows is not None else None
            made.append(Axis(taken(axis.labels, index, where), on, rows))
        else:
            made.append(walk.renumbered(axis, to))
    return tuple(made)


@rule("unbind")
def unbound(walk: Walk, node: Node) -> list[Layout]:
    x: Any = node.args[0]
    layout = walk.layout(x)
    at = axis_of(argument(node, "dim"), len(layout))
    walk.freeze([layout[at]], walk.why(node))
    return [at_position(walk, layout, at, i) for i in range(walk.shape(x)[at])]


@rule("split", "split_with_sizes", "chunk", "tensor_split")
def pieces(walk: Walk, node: Node) -> list[Layout]:
    layout = walk.layout(node.args[0])
    at = axis_of(argument(node, "dim"), len(layout))
    starts = np.cumsum([0, *(v.shape[at] for v in node.meta["val"])])
    found = [slice(int(a), int(b)) for a, b in pairwise(starts)]
    return [cut_along(walk, layout, at, part) for part in found]


@rule("getitem")
def item(walk: Walk, node: Node) -> Any:
    given, index = cast("tuple[Node, int]", node.args)
    several = walk.layouts.get(given)
    return several[index] if isinstance(several, list) else ()


@rule("embedding", "index_select")
def looked_up(walk: Walk, node: Node) -> Layout:
    """Rows that an index of any shape picks: which ones is not known before the network runs."""
    if packet(node) == "embedding":
        table, index, at = node.args[0], node.args[1], 0
    else:
        table, index = node.args[0], argument(node, "index")
        at = axis_of(argument(node, "dim"), len(walk.shape(table)))
    layout = walk.layout(table)
    walk.freeze([layout[at]], walk.why(node))
    picked = walk.layout(index)
    to = {a: a - 1 + len(picked) if a > at else a for a in range(len(layout)) if a != at}
    rest = [walk.renumbered(axis, to) for a, axis in enumerate(layout) if a != at]
    return (*rest[:at], *picked, *rest[at:])


@rule("embedding_bag", "_embedding_bag")
def bags(walk: Walk, node: Node) -> list[Layout]:
    rows, width = walk.layout(node.args[0])
    walk.freeze([rows], walk.why(node))
    return [(None, width), *((None,) * value.dim() for value in node.meta["val"][1:])]


@rule("index")
def indexed(walk: Walk, node: Node) -> Layout:
    """x[:, i, j]: where index tensors stand side by side, their axes take the place of theirs; else they come first."""
    table, given = node.args[0], list(argument(node, "indices"))
    layout = walk.layout(table)
    at = [a for a, index in enumerate(given) if index is not None]
    walk.freeze([layout[a] for a in at], walk.why(node))
    picked = walk.elementwise(node, [given[a] for a in at])
    left = [a for a in range(len(layout)) if a not in at]
    first = at[0] if at and at == list(range(at[0], at[-1] + 1)) else 0
    to = {a: i if i < first else i + len(picked) for i, a in enumerate(left)}
    rest = [walk.renumbered(layout[a], to) for a in left]
    after = {a: a + first for a in range(len(picked))}
    return (*rest[:first], *(walk.renumbered(axis, after) for axis in picked), *rest[first:])


@rule("gather", "take_along_dim")
def gathered(walk: Walk, node: Node) -> Layout:
    """From axis `dim` an index of the same rank picks; along the others it starts at 0."""
    x, index = node.args[0], argument(node, "indices" if packet(node) == "take_along_dim" else "index")
    return _walked_by(walk, node, x, index)[1]


@rule("scatter_add", "scatter", "scatter_reduce", "index_add", "index_copy")
def scattered(walk: Walk, node: Node) -> Layout | None:
    """Rows of `src` into or onto rows of x."""
    names = ("src", "source")
    given = [argument(node, a.name) for a in node.target._schema.arguments if a.name in names]  # type: ignore[union-attr]
    if not given or len(walk.shape(given[0])) != len(walk.shape(node)):
        return None
    index = argument(node, "index")
    if packet(node).startswith("scatter"):
        _walked_by(walk, node, node.args[0], index)
    else:
        walk.freeze(walk.layout(index), walk.why(node))
    return _walked_by(walk, node, node.args[0], given[0])[0]


def _walked_by(walk: Walk, node: Node, x: Any, other: Any) -> tuple[Layout, Layout]:
    """The layouts of two values that differ along axis `dim` only, or else are whole."""
    mine, theirs = walk.layout(x), walk.layout(other)
    if not mine:
        return mine, theirs
    at = axis_of(argument(node, "dim"), len(mine))
    for a, (m, n) in enumerate(zip(walk.shape(x), walk.shape(other), strict=True)):
        if a == at or m != n:
            walk.freeze([mine[a], theirs[a]], walk.why(node))
    letters = [str(a) for a in range(len(mine))]
    same = [x if a != at and m == n else f"{x}'" for a, (x, m, n) in
            enumerate(zip(letters, walk.shape(x), walk.shape(other), strict=True))]  # fmt: skip
    operands = [walk.operand(x, letters), walk.operand(other, same)]
    return walk.combine(node, operands, letters), walk.combine(node, operands, same)


@rule("slice_scatter")
def slice_scattered(walk: Walk, node: Node) -> Layout:
    """A value with a slice of it replaced: the slice keeps as many positions as what replaces it."""
    x, part = cast("tuple[Node, Node]", node.args[:2])
    layout, theirs, sizes = walk.layout(x), walk.layout(part), walk.shape(x)
    at = axis_of(argument(node, "dim"), len(sizes))
    bounds = bounds_of(node, sizes[at])
    letters = [str(a) for a in range(len(sizes))]
    if walk.shape(part)[at] == sizes[at]:
        return walk.elementwise(node, [x, part])
    mine, other = layout[at], theirs[at]
    if bounds is None or bounds[2] != 1 or mine is None or other is None:
        walk.freeze([mine, other], walk.why(node))
    else:
        walk.labels.tie(walk.labels.plain(mine)[bounds[0] : bounds[1]], walk.labels.plain(other))
    inside = [x if a != at else "part" for a, x in enumerate(letters)]
    return walk.combine(node, [walk.operand(x, letters), walk.operand(part, inside)], letters)


@rule("select_scatter")
def select_scattered(walk: Walk, node: Node) -> Layout:
    """A value with one position of an axis replaced."""
    x, part = cast("tuple[Node, Node]", node.args[:2])
    layout = walk.layout(x)
    at = axis_of(argument(node, "dim"), len(layout))
    walk.freeze([layout[at]], walk.why(node))
    letters = [str(a) for a in range(len(layout))]
    inside = [x for a, x in enumerate(letters) if a != at]
    return walk.combine(node, [walk.operand(x, letters), walk.operand(part, inside)], letters)


@rule("diagonal", "unfold")
def some(walk: Walk, node: Node) -> Layout:
    """Parts of axes, as one more axis at the end."""
    layout = walk.layout(node.args[0])
    ours = ("dim1", "dim2") if packet(node) == "diagonal" else ("dimension",)
    gone = [axis_of(argument(node, name), len(layout)) for name in ours]
    walk.freeze([layout[a] for a in gone], walk.why(node))
    return (*walk.without(layout, gone, keepdim=packet(node) == "unfold"), None)


@rule("tril", "triu")
def triangle(walk: Walk, node: Node) -> Layout:
    """Which positions stay depends on where they are along both of the last axes."""
    layout = walk.layout(node.args[0])
    last = (len(layout) - 2, len(layout) - 1)
    walk.freeze([layout[a] for a in last], walk.why(node))
    return walk.without(layout, last, keepdim=True)

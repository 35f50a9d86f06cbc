"""Labels: an integer for every position along every axis of every tensor; what has one label lives or dies together.

Rules of operators collect what must hold between labels; nothing is decided while they do. Labels that are tied are
one. A block is a matrix of labels that an operator treats as rows of equal length (heads of a width, groups of
channels): a row's label dies with the last of its cells and they die with it, and living rows keep equally many. In a
grid the cells that die in living rows are whole columns, which have labels of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Array = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Axis:
    """Labels along an axis: [*sizes of the axes in `on`, size].

    on: other axes of the same tensor, in order; where a position stands along them picks the row of labels that counts
    (head 3 may lose other positions of its width than head 4). rows: [*sizes of the axes in `on`], the label of each of
    those rows; dead when the row is.
    """

    labels: Array
    on: tuple[int, ...] = ()
    rows: Array | None = None


# One for each axis of a tensor; None: of a size that no cut changes (batch, time, image height).
Layout = tuple[Axis | None, ...]


@dataclass(frozen=True, eq=False)
class Block:
    """cells: [rows, n]. rows: [rows]."""

    cells: Array
    rows: Array


@dataclass(frozen=True, eq=False)
class Grid:
    """cells: [rows, n]. rows: [rows]. columns: [n]."""

    cells: Array
    rows: Array
    columns: Array


def joined(count: int, pairs: Sequence[tuple[Array, Array]]) -> Array:
    """[count]: the set that each of `count` numbers is in, numbered from 0, when numbers in pairs are in one set."""
    if not pairs:
        return np.arange(count)
    a, b = (np.concatenate([p[i] for p in pairs]) for i in (0, 1))
    graph: Any = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    found: Array = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


class Labels:
    """Makes labels and collects what ties them."""

    def __init__(self) -> None:
        self.count = 0
        self.blocks: list[Block] = []
        self.grids: list[Grid] = []
        self.frozen: dict[int, str] = {}  # label → why, of the first that froze it
        self._ties: list[tuple[Array, Array]] = []
        self._columns: dict[int, tuple[Axis, Array]] = {}

    def fresh(self, *shape: int) -> Array:
        n = int(np.prod(shape))
        made = np.arange(self.count, self.count + n, dtype=np.int64).reshape(shape)
        self.count += n
        return made

    def tie(self, a: Array, b: Array) -> None:
        a, b = np.broadcast_arrays(a, b)
        if a is not b and a.size:
            self._ties.append((a.ravel(), b.ravel()))

    def freeze(self, labels: Array, why: str) -> None:
        for label in np.unique(labels).tolist():
            self.frozen.setdefault(label, why)

    def block(self, cells: Array, rows: Array) -> None:
        """cells: [..., n]. rows: [...]."""
        if rows.size > 1 and cells.shape[-1] > 0:
            self.blocks.append(Block(cells.reshape(rows.size, -1), rows.reshape(-1)))

    def grid(self, cells: Array, rows: Array, columns: Array) -> None:
        self.grids.append(Grid(cells.reshape(rows.size, -1), rows.reshape(-1), columns))

    # axes

    def plain(self, axis: Axis) -> Array:
        """Labels [size] of the positions along an axis, whatever stands along the others: the columns of a grid."""
        if not axis.on:
            return axis.labels
        assert axis.rows is not None
        known = self._columns.get(id(axis))
        if known is not None:
            return known[1]
        cells = axis.labels.reshape(axis.rows.size, -1)
        if (cells == cells[:1]).all():
            columns = cells[0]
        else:
            columns = self.fresh(axis.labels.shape[-1])
            self.grid(cells, axis.rows, columns)
        self._columns[id(axis)] = axis, columns
        return columns

    def align(self, a: Axis, b: Axis) -> Axis:
        """The axis of a value that holds both, position by position."""
        if a.on == b.on and a.labels.shape == b.labels.shape:
            self.tie(a.labels, b.labels)
            return a
        self.tie(self.plain(a), self.plain(b))
        return a if a.on else b

    def freeze_axis(self, axis: Axis | None, why: str) -> None:
        """No position along an axis is ever cut."""
        if axis is not None:
            self.freeze(self.plain(axis), why)

    def classes(self) -> Array:
        """[count]: the class of every label, numbered from 0."""
        return joined(self.count, self._ties)


# changes of a tensor's index space


def taken(labels: Array, index: int | Array, axis: int) -> Array:
    """Labels at one position of an axis, which goes, or at several."""
    return np.asarray(np.take(labels, index, axis))


def merge(labels: Labels, axes: Sequence[Axis | None], sizes: Sequence[int], first: int) -> Axis | None:
    """The axis that neighbouring axes `first`, `first` + 1, … become. In its `on`, other axes keep their numbers."""
    flat: Axis | None = None  # of the axes so far
    labelled: set[int] = set()
    for i, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        before = math.prod(sizes[:i])
        if axis is None:
            flat = flat and Axis(np.repeat(flat.labels, size, axis=-1), flat.on, flat.rows)
            continue
        inside = range(first, first + len(axes))
        within = {p for p in axis.on if p in inside}
        if any(p >= first + i for p in within) or (within and within != labelled):
            axis, within = Axis(labels.plain(axis)), set()  # what lives must be in one order
        if within:
            flat = _following(labels, flat, axis, first, sizes[: i + 1])
        elif flat is None:
            flat = Axis(np.tile(axis.labels, before), axis.on, axis.rows)
        else:
            flat = _product(labels, flat, axis)
        labelled.add(first + i)
    return flat


def _following(labels: Labels, flat: Axis | None, axis: Axis, first: int, sizes: Sequence[int]) -> Axis:
    """An axis whose rows follow all labelled ones of the axes before it, which are `flat`, as one with those."""
    assert flat is not None and axis.rows is not None
    outside = tuple(p for p in axis.on if not first <= p < first + len(sizes))
    if axis.on[: len(outside)] != outside or flat.on != outside:
        return _product(labels, flat, axis)
    lead = axis.labels.shape[: len(outside)]
    inside = sorted(range(len(outside), len(axis.on)), key=lambda i: axis.on[i])
    ordered = axis.labels.transpose(*range(len(outside)), *inside, len(axis.on))
    spread = [s if first + i in axis.on else 1 for i, s in enumerate(sizes[:-1])]
    cells = np.broadcast_to(ordered.reshape(*lead, *spread, sizes[-1]), (*lead, *sizes))
    return Axis(cells.reshape(*lead, -1), outside, flat.rows)


def _product(labels: Labels, a: Axis, b: Axis) -> Axis:
    """Every position of one axis with every one of another: dead where either is."""
    x, y = labels.plain(a), labels.plain(b)
    cells = labels.fresh(len(x), len(y))
    labels.grid(cells, x, y)
    return Axis(cells.reshape(-1))


def split(labels: Labels, axis: Axis | None, sizes: Sequence[int], first: int) -> list[Axis | None]:
    """The axes `first`, `first` + 1, … of these sizes that one axis becomes. axis.on: outside axes, numbered anew."""
    made: list[Axis | None] = [None] * len(sizes)
    if axis is None:
        return made
    cells, on, rows = axis.labels, axis.on, axis.rows
    for i, size in enumerate(sizes):
        lead, rest = cells.shape[:-1], math.prod(sizes[i + 1 :])
        cells = cells.reshape(*lead, size, rest)
        if size == 1:
            cells = cells[..., 0, :]
        elif rest == 1 or (cells == cells[..., :1]).all():
            made[i] = Axis(cells[..., 0], on, rows)
            break
        elif (cells == cells[..., :1, :]).all():
            cells = cells[..., 0, :]  # along this axis, all is alike
        else:
            _, same = np.unique(cells.reshape(-1, rest), axis=0, return_inverse=True)  # rows alike have one label
            below = labels.fresh(int(same.max()) + 1)[same.reshape(-1)].reshape(*lead, size)
            labels.block(cells, below)
            if rows is not None:
                labels.block(below, rows)
            made[i] = Axis(below, on, rows)
            on, rows = (*on, first + i), below
    return made


def reshape(labels: Labels, layout: Layout, sizes: Sequence[int], to: Sequence[int]) -> Layout:
    """The layout of a tensor of shape `sizes` seen as shape `to`: axes are merged and split where products meet."""
    segments = _segments(sizes, to)
    whole: list[Axis | None] = []  # each segment as one axis
    for old, _ in segments:
        first = old[0] if old else 0
        whole.append(merge(labels, [layout[a] for a in old], [sizes[a] for a in old], first))
    segment_of = {a: i for i, (old, _) in enumerate(segments) for a in old}
    for i, axis in enumerate(whole):
        if axis is not None and axis.on:
            whole[i] = _on_segments(labels, axis, segments, segment_of, sizes)
    made: list[Axis | None] = [None] * len(to)
    for i in sorted(range(len(whole)), key=lambda i: len(whole[i].on) if whole[i] else 0):  # type: ignore[union-attr]
        axis, new = whole[i], segments[i][1]
        if axis is None:
            continue
        if axis.on:
            axis = _on_parts(labels, axis, segments, to, made)
        for a, part in zip(new, split(labels, axis, [to[a] for a in new], new[0] if new else 0), strict=True):
            made[a] = part
    return tuple(made)


def _segments(sizes: Sequence[int], to: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of old and of new axes with the same product, as short as can be."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(sizes) or j < len(to):
        old: list[int] = []
        new: list[int] = []
        m = n = 1
        while not old or not new or m != n:
            if i < len(sizes) and (m <= n or j == len(to)):
                old.append(i)
                m *= sizes[i]
                i += 1
            elif j < len(to):
                new.append(j)
                n *= to[j]
                j += 1
            else:
                break
        found.append((old, new))
    return found


def _on_segments(
    labels: Labels, axis: Axis, segments: Sequence[tuple[list[int], list[int]]], segment_of: dict[int, int],
    sizes: Sequence[int],
) -> Axis:  # fmt: skip
    """`on` in numbers of segments, each of which is one axis."""
    assert axis.rows is not None
    on = tuple(dict.fromkeys(segment_of[p] for p in axis.on))
    every = [p for s in on for p in segments[s][0]]
    if list(axis.on) != sorted(axis.on, key=every.index):
        return Axis(labels.plain(axis))
    spread = [sizes[p] if p in axis.on else 1 for p in every]
    lead = [sizes[p] for p in every]
    to = [math.prod(sizes[p] for p in segments[s][0]) for s in on]
    n = axis.labels.shape[-1]
    cells = np.broadcast_to(axis.labels.reshape(*spread, n), (*lead, n)).reshape(*to, n)
    return Axis(cells, on, np.broadcast_to(axis.rows.reshape(spread), lead).reshape(to))


def _on_parts(
    labels: Labels, axis: Axis, segments: Sequence[tuple[list[int], list[int]]], to: Sequence[int],
    made: Sequence[Axis | None],
) -> Axis:  # fmt: skip
    """`on` in numbers of the new axes that segments became, without those along which all rows are alike."""
    assert axis.rows is not None
    on = [a for s in axis.on for a in segments[s][1]]
    cells = axis.labels.reshape(*(to[a] for a in on), -1)
    rows = axis.rows.reshape([to[a] for a in on])
    for a in list(on):
        at = on.index(a)
        if (cells == cells.take([0], at)).all():
            cells, rows = taken(cells, 0, at), taken(rows, 0, at)
            on.remove(a)
    if not on:
        return Axis(cells)
    parent = made[on[-1]]
    if parent is not None and parent.on == tuple(on[:-1]):
        rows = parent.labels
    return Axis(cells, tuple(on), rows)

"""Families of units: what can be cut from a network, and what a cut takes with it.

A unit is the smallest cut that leaves a network whole: a channel with all that it feeds, a head, one position of the
width of every head. Units of a family are alike (they pass through the same tensors), so that they can be ranked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from packlight.model.operators import packet
from packlight.model.shapes import shape_of
from packlight.passes.prune.labels import Array, Axis, joined
from packlight.passes.prune.walk import Labelled

Flags = NDArray[np.bool_]
_CLASH = "operators take its outputs apart in ways that do not fit each other"
_MOST_BALANCED = 4096  # units that are looked at one by one


@dataclass(frozen=True, eq=False)
class Family:
    """rows: [m, n] atoms; a unit is one of every row, so there are n. kind: "channels", "heads" (rows of a block with
    all their cells) or "width" (positions that every head or group keeps equally many of). tensors: (name, axis) that
    get shorter. name: of the layer that makes it."""

    name: str
    kind: str
    rows: Array
    tensors: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return int(self.rows.shape[1])


class Groups:
    """The families of a labelled network. frozen: weight layer → why none of its outputs can be cut. atoms: [classes],
    what dies as one where rows live."""

    def __init__(self, labelled: Labelled):
        self.labelled = labelled
        labels = labelled.labels
        self.classes = labels.classes()
        count = int(self.classes.max()) + 1 if labels.count else 0
        self.blocks = [(self.classes[b.cells], self.classes[b.rows]) for b in labels.blocks]
        self.grids = [(self.classes[g.cells], self.classes[g.rows], self.classes[g.columns]) for g in labels.grids]
        self.count = count
        self.stuck = np.zeros(count, bool)
        if labels.frozen:
            self.stuck[self.classes[list(labels.frozen)]] = True
        self.atoms = self._atoms()
        self._inside = [np.unique(np.concatenate([p.ravel() for p in b])) for b in (*self.blocks, *self.grids)]
        self._touching = self._index()
        self._around: dict[tuple[tuple[int, ...], tuple[int, ...]], Array] = {}
        self.families, self.frozen = self._families()

    # what dies with what

    def _atoms(self) -> Array:
        """[classes]: in a grid, a column's cells and its label are one atom."""
        pairs = [(cells.ravel(), np.broadcast_to(columns, cells.shape).ravel()) for cells, _, columns in self.grids]
        return joined(self.count, pairs)

    def _index(self) -> dict[int, list[int]]:
        """Class → blocks and, counted after them, grids that it is in."""
        found: dict[int, list[int]] = defaultdict(list)
        for i, inside in enumerate(self._inside):
            for c in inside.tolist():
                found[c].append(i)
        return found

    def closure(self, classes: Iterable[int], dead: Flags | None = None, seen: set[int] | None = None) -> Flags:
        """[classes]: all that dies when these do. dead: what is dead already. seen: takes the numbers of the blocks and
        grids that were looked at."""
        gone = np.zeros(self.count, bool) if dead is None else dead.copy()
        new = [c for c in classes if not gone[c]]
        gone[new] = True
        while new:
            touched = {i for c in new for i in self._touching.get(c, ())}
            new = []
            if seen is not None:
                seen |= touched
            for i in touched:
                lived = self._inside[i][~gone[self._inside[i]]]
                if i < len(self.blocks):
                    self._in_block(gone, *self.blocks[i])
                else:
                    self._in_grid(gone, *self.grids[i - len(self.blocks)])
                new += lived[gone[lived]].tolist()
        return gone

    @staticmethod
    def _in_block(gone: Flags, cells: Array, rows: Array) -> None:
        gone[cells[gone[rows]]] = True
        gone[rows[gone[cells].all(axis=1)]] = True

    @staticmethod
    def _in_grid(gone: Flags, cells: Array, rows: Array, columns: Array) -> None:
        gone[cells[:, gone[columns]]] = True
        gone[cells[gone[rows]]] = True
        living = ~gone[rows]
        if living.any():
            gone[columns[gone[cells[living]].any(axis=0)]] = True
        gone[cells[:, gone[columns]]] = True
        gone[rows[gone[cells].all(axis=1)]] = True

    def whole(self, gone: Flags, last: Array | None = None) -> str | None:
        """None when what lives is a network; else what is wrong. last: the classes that went last from what was a
        network, so that only what they pass through is looked at."""
        if self.stuck[gone if last is None else last].any():
            return "it would take what is never cut with it"
        every = range(len(self.blocks))
        touched = every if last is None else {i for c in last.tolist() for i in self._touching.get(c, ())}
        for cells, rows in (self.blocks[i] for i in touched if i in every):
            living = cells[~gone[rows]]
            counts = (~gone[living]).sum(axis=1)
            if len(living) == 0:
                return "no head or group of an operator would be left"
            if len(counts) and counts.min() != counts.max():
                return "heads or groups of one operator would differ in width"
        through = range(len(self._passed)) if last is None else self._through(last)
        if any(gone[self._passed[i]].all() for i in through):
            return "nothing would be left of a layer or of a part of it"
        return None

    def _through(self, classes: Array) -> list[int]:
        """The axes of tensors, as numbers of `_passed`, that classes pass through."""
        axes, bounds = self._axes_of
        return sorted({a for c in classes.tolist() for a in axes[bounds[c] : bounds[c + 1]].tolist()})

    def around(self, seen: Iterable[int], last: Array) -> Array:
        """The classes on which it hangs what dies, and whether what lives is a network, when blocks and grids `seen`
        were looked at and classes `last` died."""
        key = tuple(sorted(seen)), tuple(self._through(last))
        if key not in self._around:
            near = [self._inside[i] for i in key[0]] + [self._passed[i] for i in key[1]]
            self._around[key] = np.unique(np.concatenate(near)) if near else last[:0]
        return self._around[key]

    # families

    def _families(self) -> tuple[list[Family], dict[str, str]]:
        signature, self.where = self._signatures()
        where = self.where
        atoms = int(self.atoms.max()) + 1 if self.count else 0
        sums = np.zeros(atoms, np.uint64)
        np.add.at(sums, self.atoms, signature)
        stuck = np.zeros(atoms, bool)
        stuck[self.atoms[self.stuck]] = True
        zipped, self._lost = self._zipped()
        held = {int(a) for rows in zipped for a in rows.ravel()}
        found: list[tuple[Array, str]] = []
        found += [(rows, "width") for rows in zipped if not stuck[rows].any()]
        row_labels = {int(a) for _, rows in self.blocks for a in self.atoms[rows]}
        by_signature: dict[int, list[int]] = defaultdict(list)
        for atom in np.flatnonzero((sums > 0) & ~stuck).tolist():
            if atom not in held:
                by_signature[int(sums[atom])].append(atom)
        self.members = self._members(atoms)
        for members in by_signature.values():
            kind = "heads" if members[0] in row_labels else "channels"
            found.append((np.array([members]), kind))
        families = []
        for every, first in found:
            rows, kind = every, first
            if rows.shape[1] > 1 and (wrong := self.whole(self.closure(self.unit(rows[:, 0])))) is not None:
                rows, kind = self._balanced(rows), "width"
                if rows.shape[1] < 2:
                    self._lost |= dict.fromkeys(every.ravel().tolist(), wrong)
            if rows.shape[1] < 2:
                continue
            gone = self.closure(self.unit(rows[:, 0]))
            tensors = self._tensors(gone, where)
            if tensors:
                families.append(Family(self._name(tensors), kind, rows, tensors))
        families.sort(key=lambda f: self._order.get(f.tensors[0][0], 0))
        return families, self._why_frozen({t for f in families for t in f.tensors})

    def _balanced(self, rows: Array) -> Array:
        """Units that leave rows of blocks unequal, put together so that they do not: [m, n] atoms. n is 0 where there
        is no way."""
        none = rows[:, :0]
        if len(rows) > 1 or rows.shape[1] > _MOST_BALANCED:
            return none
        by_effect: dict[bytes, list[int]] = defaultdict(list)
        for atom in rows[0].tolist():
            gone = self.closure(self.unit([atom]))
            if (gone & self.stuck).any():
                return none
            lost = [(gone[cells] & ~gone[of][:, None]).sum(axis=1) for cells, of in self.blocks]
            uneven = [n for n in lost if len(n) and n.min() != n.max()]
            by_effect[b"".join(n.astype(np.int32).tobytes() for n in uneven)].append(atom)
        groups = list(by_effect.values())
        if len({len(g) for g in groups}) > 1:
            return none
        made = np.array(groups)
        return made if self.whole(self.closure(self.unit(made[:, 0]))) is None else none

    def _members(self, atoms: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in range(atoms)]
        for c, a in enumerate(self.atoms.tolist()):
            found[a].append(c)
        return found

    def _signatures(self) -> tuple[NDArray[np.uint64], dict[tuple[str, int], Array]]:
        """[classes]: a number that says which axes of tensors, and which blocks, a class passes through."""
        draw = np.random.default_rng(0)
        signature = np.zeros(self.count, np.uint64)
        where: dict[tuple[str, int], Array] = {}
        self._order: dict[str, int] = {}

        passed: list[Array] = []

        def add(classes: Array) -> None:
            passed.append(np.unique(classes))
            np.add.at(signature, classes.ravel(), np.uint64(draw.integers(1, 2**63)))

        for i, (node, layout) in enumerate(self.labelled.layouts.items()):
            if node.op == "get_attr" and (str(node.target), 0) not in where:
                self._order.setdefault(str(node.target), i)
                for a, axis in enumerate(layout):
                    if isinstance(axis, Axis):
                        where[str(node.target), a] = self.classes[axis.labels]
                        add(self.classes[axis.labels])
            elif isinstance(layout, list):  # pieces: something of each must be left
                for axes in layout:
                    for axis in axes:
                        if axis is not None:
                            add(self.classes[axis.labels])
        self._passed = [*passed]  # without what is added for blocks below
        owner = np.repeat(np.arange(len(passed)), [len(p) for p in passed])
        flat = np.concatenate(passed) if passed else np.zeros(0, np.int64)
        order = np.argsort(flat, kind="stable")
        self._axes_of = owner[order], np.searchsorted(flat[order], np.arange(self.count + 1))
        for parts in (*self.blocks, *self.grids):
            for part in parts:
                add(part)
        return signature, where

    def _zipped(self) -> tuple[list[Array], dict[int, str]]:
        """Rows of blocks that must lose equally many, [m, n] atoms each; and atoms that no cut fits, with why."""
        sets: list[list[tuple[int, ...]]] = []
        clash: set[int] = set()
        for cells, _ in self.blocks:
            rows = {tuple(np.unique(r).tolist()) for r in self.atoms[cells]}
            uniform = all(len(set(np.unique(r, return_counts=True)[1].tolist())) == 1 for r in self.atoms[cells])
            if len(rows) > 1:
                if len({len(r) for r in rows}) > 1 or not uniform:
                    clash.update(a for r in rows for a in r)
                    continue
                sets.append(sorted(rows))
        owner: dict[int, tuple[int, ...]] = {}
        kept: list[list[tuple[int, ...]]] = []
        for rows_of in sorted(sets, key=lambda s: len(s[0])):
            finer = _finer(rows_of, owner)
            if finer is None:
                clash.update(a for row in rows_of for a in row)
                continue
            for row in finer:
                owner.update(dict.fromkeys(row, row))
            kept.append(finer)
        joined = _joined(kept)
        clash.update(a for rows in joined for r in rows for a in r if any(a in clash for a in r))
        whole = [rows for rows in joined if not any(a in clash for r in rows for a in r)]
        even = [rows for rows in whole if len({len(r) for r in rows}) == 1]
        clash.update(a for rows in whole if rows not in even for r in rows for a in r)
        return [np.array(rows) for rows in even], dict.fromkeys(clash, _CLASH)

    def sums(self, elements: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """[classes]: the sum of the elements of tensors, by name, over the slices that belong to each class. Axes of
        one tensor that a class has twice count twice."""
        found = np.zeros(self.count)
        for (name, a), classes in self.where.items():
            if name in elements:
                value = elements[name]
                rest = [i for i in range(value.dim()) if i != a and not (classes.ndim == 2 and i == 0)]
                of = value.sum(rest, dtype=torch.float64) if rest else value.double()
                np.add.at(found, classes.ravel(), of.cpu().numpy().ravel())
        return found

    @property
    def _learned(self) -> set[str]:
        return {name for name, _ in self.labelled.model.named_parameters()}

    def _tensors(self, gone: Flags, where: dict[tuple[str, int], Array]) -> tuple[tuple[str, int], ...]:
        return tuple(key for key, classes in where.items() if gone[classes].any())

    @staticmethod
    def _name(tensors: Sequence[tuple[str, int]]) -> str:
        makers = [name for name, axis in tensors if axis == 0] or [tensors[0][0]]
        return makers[0].rpartition(".")[0] or makers[0]

    def _why_frozen(self, cut: set[tuple[str, int]]) -> dict[str, str]:
        """Layer → why, of the weights with outputs that no family shortens. cut: (name, axis) that families do."""
        why = {int(self.classes[label]): reason for label, reason in reversed(self.labelled.labels.frozen.items())}
        found: dict[str, str] = {}
        for node, layout in self.labelled.layouts.items():
            if node.op != "get_attr" or len(layout) < 2 or not node.users:
                continue
            name, at = str(node.target), outputs_of(node)
            axis = layout[at]
            if (name, at) not in cut and name in self._learned:
                found.setdefault(name.rpartition(".")[0] or name, self._reason(axis, why))
        return found

    def _reason(self, axis: Axis | None, why: Mapping[int, str]) -> str:
        if axis is None:
            return "it has one output"
        classes = self.classes[axis.labels].ravel().tolist()
        reasons = [why[c] for c in classes if c in why] + [self._lost.get(int(self.atoms[c])) for c in classes]
        return next((r for r in reasons if r), None) or "its outputs live or die as one, and something must be left"

    # cutting

    def free(self, family: Family) -> bool:
        """Whether what dies with a unit is the unit alone, whatever else has died."""
        return len(family.rows) == 1 and not any(c in self._touching for a in family.rows[0] for c in self.members[a])

    def unit(self, atoms: Iterable[int]) -> list[int]:
        """The classes of the atoms of a unit."""
        return [c for a in atoms for c in self.members[int(a)]]

    def alive(self, gone: Flags) -> Array:
        """[labels]: 1 where a label lives."""
        made: Array = (~gone[self.classes]).astype(np.int64)
        return made


def outputs_of(node: Node) -> int:
    """The axis of a weight along which its layer's outputs are."""
    user = next(iter(node.users))
    takes = [i for i, value in enumerate(user.args) if value is node]
    match packet(user):
        case "embedding" | "embedding_bag" | "_embedding_bag":
            return 1
        case name if name.startswith("conv_transpose") and takes == [1]:
            return 1
        case "matmul" | "mm" | "bmm" if takes == [1]:
            return len(shape_of(node)) - 1
        case _:
            return 0


def _finer(rows: Sequence[tuple[int, ...]], owner: dict[int, tuple[int, ...]]) -> list[tuple[int, ...]] | None:
    """Rows of equal length as rows that other blocks have made of them already, equally many each; a row that no other
    block has seen is taken apart likewise. None where blocks contradict. owner: atom → its row so far."""
    parts: list[list[tuple[int, ...]]] = []
    for row in rows:
        owners = {owner[a] for a in row if a in owner}
        if not all(set(o) <= set(row) for o in owners) or (owners and sum(map(len, owners)) != len(row)):
            return None
        parts.append(sorted(owners))
    counts = {len(p) for p in parts if p} or {1}
    if len(counts) > 1:
        return None
    (count,) = counts
    for row, found in zip(rows, parts, strict=True):
        if not found:
            if len(row) % count:
                return None
            each = len(row) // count
            found += [row[i * each : (i + 1) * each] for i in range(count)]
    return [r for found in parts for r in found]


def _joined(kept: list[list[tuple[int, ...]]]) -> list[list[tuple[int, ...]]]:
    """Sets of rows, those that share a row as one."""
    made: list[set[tuple[int, ...]]] = []
    for rows in kept:
        mine = set(rows)
        for other in [m for m in made if m & mine]:
            mine |= other
            made.remove(other)
        made.append(mine)
    return [sorted(rows) for rows in made]

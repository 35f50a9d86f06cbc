"""What can be cut of a network, as plain values that can be printed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from packlight.model.shapes import shape_of
from packlight.passes.prune import Family, Groups
from packlight.passes.prune.cut import shape_after
from packlight.passes.prune.groups import Flags


@dataclass(frozen=True)
class Cuttable:
    """A family. units: how many there are. params: that go with one of them, from all layers. tensors: (name, axis,
    size now) of what gets shorter."""

    name: str
    kind: str
    units: int
    params: int
    tensors: tuple[tuple[str, int, int], ...]


def cuttable(groups: Groups) -> list[Cuttable]:
    """The families of a network."""
    sizes = {name: tuple(t.shape) for name, t in groups.labelled.model.named_tensors().items()}
    whole = _params(groups, np.zeros(groups.count, bool))
    return [
        Cuttable(
            f.name, f.kind, len(f), whole - _params(groups, _without_one(groups, f)),
            tuple((name, axis, sizes[name][axis]) for name, axis in f.tensors),
        )
        for f in groups.families
    ]  # fmt: skip


def _without_one(groups: Groups, family: Family) -> Flags:
    return groups.closure(groups.unit(family.rows[:, 0]))


def _params(groups: Groups, gone: Flags) -> int:
    labelled = groups.labelled
    names = {n for n, _ in labelled.model.named_parameters()}
    alive = groups.alive(gone)
    found = {str(n.target): (n, layout) for n, layout in labelled.layouts.items() if n.op == "get_attr"}
    return sum(
        math.prod(shape_after(layout, shape_of(n), alive) if layout else shape_of(n))
        for name, (n, layout) in found.items() if name in names
    )  # fmt: skip

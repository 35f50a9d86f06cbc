"""What can be cut of a network, as plain values that can be printed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from packlight.passes.prune import Groups
from packlight.passes.prune.costs import params_left


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
    left = params_left(groups)
    whole = left(np.zeros(groups.count, bool))
    return [
        Cuttable(
            f.name, f.kind, len(f), int(whole - left(groups.closure(groups.unit(f.rows[:, 0])))),
            tuple((name, axis, sizes[name][axis]) for name, axis in f.tensors),
        )
        for f in groups.families
    ]  # fmt: skip

"""Cuts at random for tests of pruning."""

from dataclasses import dataclass

import numpy as np

import packlight as pl
from packlight.passes.prune import Groups
from packlight.passes.prune.cut import cut
from packlight.passes.prune.proof import disagreement
from packlight.passes.prune.walk import Labelled, label, unusual_sizes


@dataclass(frozen=True, eq=False)
class Cut:
    """reference: labelled and whole. alive: [labels]. small: cut by that."""

    reference: Labelled
    groups: Groups
    alive: np.ndarray
    small: pl.Model

    def off(self, alive: np.ndarray | None = None, training: bool = False) -> float:
        """How far the cut network is from the one that is masked by `alive`, default by what it was cut by."""
        model = self.reference.model
        inputs = model.example_inputs(seed=3, **unusual_sizes(model))
        return disagreement(self.reference, self.alive if alive is None else alive, self.small, inputs, training)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(t.shape) for name, t in self.small.named_tensors().items()}


def cut_by(model: pl.Model, share: float = 0.5, seed: int = 0) -> Cut:
    labelled = label(model.copy())
    groups = Groups(labelled)
    alive = groups.alive(at_random(groups, share, seed))
    return Cut(label(model.copy()), groups, alive, cut(labelled, alive))


def at_random(groups: Groups, share: float = 0.5, seed: int = 0) -> np.ndarray:
    """[classes]: a share of the units of every family is gone, heads before their width."""
    draw, gone = np.random.default_rng(seed), np.zeros(groups.count, bool)
    for family in sorted(groups.families, key=lambda f: f.kind != "heads"):
        rows = [draw.permutation(row)[: int(share * len(family))] for row in family.rows]
        for unit in zip(*rows, strict=True):
            found = groups.closure(groups.unit(unit), gone)
            gone = gone if groups.whole(found) else found
    return gone

"""Channels that fade while a network trains, before they are cut.

The share that goes follows the cubic schedule of Zhu and Gupta 2017 (arXiv 1710.01878, section 3). What goes is chosen
anew from the weights as they are: until the schedule ends, training moves faded channels, too, and one that grows back
stays (He et al. 2018, arXiv 1808.06866, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.passes.prune import Family, Groups, Pruning
from packlight.passes.prune.groups import Flags
from packlight.passes.prune.prune import carried_out, chosen, families_of
from packlight.passes.prune.scores import NEEDS_DATA, class_scores
from packlight.train import Hook, Run


@dataclass(frozen=True)
class Gradual:
    """begin, end: shares of the run, 0 <= begin < end <= 1, between which channels fade. times: >= 1, how often what
    fades is chosen, evenly over them."""

    begin: float = 0.0
    end: float = 0.6
    times: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1 or self.times < 1:
            raise PacklightError(
                f"gradual pruning takes 0 <= begin < end <= 1 and times >= 1, got {self.begin}, {self.end} and "
                f"{self.times}"
            )

    def at(self, progress: float) -> float:
        """How far the cut is at a share of the run: 1 − (1 − t)³, 0 to 1."""
        t = min(1.0, max(0.0, (progress - self.begin) / (self.end - self.begin)))
        return 1 - (1 - t) ** 3


class Fade(Hook):
    """groups, families: of the Model in training. gone: [classes], what has faded; at the end, what is to be cut."""

    groups: Groups
    families: list[Family]
    gone: Flags
    done: bool
    turn: int

    def __init__(self, pruning: Pruning, how: Gradual = Gradual()):
        if pruning.score in NEEDS_DATA or pruning.by == "latency" or pruning.threshold is not None:
            raise PacklightError(
                "gradual pruning takes a score of weights alone (l1, l2, geometric_median, random), no latency and no "
                f"threshold, got score {pruning.score} by {pruning.by}, threshold {pruning.threshold}"
            )
        self.pruning, self.how = pruning, how
        self.masks: dict[str, Tensor] = {}

    def start(self, run: Run) -> None:
        self.groups, self.families = families_of(run.model, self.pruning)
        self.groups.labelled = self.groups.labelled.on(run.model)
        self.turn = 0
        self._take(np.zeros(self.groups.count, bool))

    def settled(self, progress: float) -> bool:
        return progress >= self.how.end

    def after_step(self, run: Run) -> None:
        share = (run.progress - self.how.begin) / (self.how.end - self.how.begin)
        if 0 < share < 1 and int(share * self.how.times) > self.turn:
            self.turn = int(share * self.how.times)
            self._choose(self.how.at(run.progress))
            self._clear()
        elif run.progress >= self.how.end:
            if not self.done:
                self._choose(1.0)
                self.done = True
            self._clear()

    def end(self, run: Run) -> None:
        self._clear()

    def cut(self, trained: Model, proof_inputs: Sequence[tuple[Tensor, ...]] = ()) -> Model:
        """The trained Model without what faded, proven."""
        self.groups.labelled = self.groups.labelled.on(trained.copy().eval())
        return carried_out(self.groups, self.families, self.gone, self.pruning, (), proof_inputs, trained.notes)

    def _choose(self, far: float) -> None:
        keep = 1 - (1 - self.pruning.keep) * far
        layers = {name: 1 - (1 - share) * far for name, share in self.pruning.layers.items()}
        scores = class_scores(self.groups, self.pruning.score, seed=self.pruning.seed)
        self._take(chosen(self.groups, self.families, scores, replace(self.pruning, keep=keep, layers=layers)))

    def _take(self, gone: Flags, done: bool = False) -> None:
        self.gone, self.done = gone, done
        self.masks = masks(self.groups, gone)

    def _clear(self) -> None:
        named = self.groups.labelled.model.named_tensors()
        with torch.no_grad():
            for name, mask in self.masks.items():
                named[name].mul_(mask.to(named[name].device))

    def state(self) -> dict[str, Any]:
        return {"gone": torch.from_numpy(self.gone), "done": self.done, "turn": self.turn}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.turn = int(state["turn"])
        self._take(state["gone"].cpu().numpy(), bool(state["done"]))

    def options(self) -> dict[str, Any]:
        return {"gradual": asdict(self.how), "pruning": asdict(self.pruning)}


def masks(groups: Groups, gone: Flags) -> dict[str, Tensor]:
    """By name, for every parameter that loses something: 1 where an element stays, of a shape that broadcasts."""
    learned = dict(groups.labelled.model.named_parameters())
    found: dict[str, Tensor] = {}
    for (name, a), classes in groups.where.items():
        if name not in learned or not gone[classes].any():
            continue
        shape = [1] * learned[name].dim()
        shape[a] = classes.shape[-1]
        if classes.ndim == 2:  # rows of axis 0 keep different positions of axis `a`
            shape[0] = classes.shape[0]
        lives = torch.from_numpy(~gone[classes]).reshape(shape).to(learned[name].dtype)
        found[name] = found[name] * lives if name in found else lives
    return found

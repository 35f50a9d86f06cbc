"""Gradual pruning of single weights during training.

The share of zeros follows the cubic schedule of Zhu and Gupta 2017 (arXiv 1710.01878, section 3); what goes is chosen
by magnitude, or by movement (Sanh et al. 2020, arXiv 2005.07683, section 4): weights that training pushes towards zero
go first. Here a weight that went does not come back, where that paper keeps its value aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.model import patterns_of
from packlight.train.hooks import Hook, Run
from packlight.train.regularise import weights_of


@dataclass(frozen=True)
class Sparsity:
    """sparsity: in (0, 1), the share of the weights with two or more axes that is zero in the end. begin, end: shares
    of the run, 0 <= begin < end <= 1, between which it rises. every: >= 1, steps between two prunings. scope: "layer"
    (the same share of each) or "global" (the least of all). score: "magnitude" or "movement". exclude: parameter-name
    patterns (shell wildcards) that stay dense. initial: in [0, sparsity], the share that is zero from the start, of a
    network that was pruned before."""

    sparsity: float
    begin: float = 0.0
    end: float = 0.75
    every: int = 20
    scope: str = "layer"
    score: str = "magnitude"
    exclude: str | Sequence[str] = ()
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1 or not 0 <= self.begin < self.end <= 1 or self.every < 1:
            raise PacklightError(
                f"pruning needs sparsity in (0, 1), 0 <= begin < end <= 1 and every >= 1, got {self.sparsity}, "
                f"{self.begin}, {self.end} and {self.every}"
            )
        if not 0 <= self.initial <= self.sparsity:
            raise PacklightError(f"pruning's initial share must be in [0, sparsity], got {self.initial}")
        if self.scope not in ("layer", "global") or self.score not in ("magnitude", "movement"):
            raise PacklightError(
                f"pruning's scope is layer or global and its score magnitude or movement, got {self.scope!r}, "
                f"{self.score!r}"
            )

    def at(self, progress: float) -> float:
        """The share of zeros at a share of the run: sparsity − (sparsity − initial) · (1 − t)³."""
        t = min(1.0, max(0.0, (progress - self.begin) / (self.end - self.begin)))
        return self.sparsity - (self.sparsity - self.initial) * (1 - t) ** 3


class Sparsify(Hook):
    """Prunes as it trains; the weights that went are exactly zero. masks: by parameter name, True where it stays."""

    def __init__(self, how: Sparsity):
        self.how = how
        self.weights: dict[str, nn.Parameter] = {}
        self.masks: dict[str, Tensor] = {}
        self.moved: dict[str, Tensor] = {}
        self.share = 0.0

    def start(self, run: Run) -> None:
        self.weights = dict(weights_of(run.model, self.how.exclude))
        self.share = 0.0
        self.masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}
        if self.how.score == "movement":
            self.moved = {n: torch.zeros_like(w) for n, w in self.weights.items()}
        if self.how.initial > 0:
            self.masks = {n: w.detach() != 0 for n, w in self.weights.items()}

    def settled(self, progress: float) -> bool:
        return progress >= self.how.end

    def before_step(self, run: Run) -> None:
        for name, weight in self.weights.items():
            if weight.grad is not None:
                if self.moved:
                    self.moved[name].addcmul_(weight.detach(), weight.grad, value=-1.0)
                weight.grad.mul_(self.masks[name])

    def after_step(self, run: Run) -> None:
        share = self.how.at(run.progress)
        if share > self.share and (run.step % self.how.every == 0 or run.progress >= self.how.end):
            self._prune(share)
            self.share = share
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.mul_(self.masks[name])

    def end(self, run: Run) -> None:
        self.after_step(run)

    def _prune(self, share: float) -> None:
        scores = {n: self.moved.get(n, w.detach().abs()).masked_fill(~self.masks[n], -torch.inf)
                  for n, w in self.weights.items()}  # fmt: skip
        if self.how.scope == "global":
            every = torch.cat([s.flatten() for s in scores.values()])
            order = every.argsort(stable=True)
            keep = torch.ones_like(every, dtype=torch.bool)
            keep[order[: int(share * len(every))]] = False
            parts = keep.split([s.numel() for s in scores.values()])  # type: ignore[no-untyped-call]
            self.masks = {n: part.reshape(s.shape) for (n, s), part in zip(scores.items(), parts, strict=True)}
            return
        for name, score in scores.items():
            keep = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
            keep[score.flatten().argsort(stable=True)[: int(share * score.numel())]] = False
            self.masks[name] = keep.reshape(score.shape)

    def state(self) -> dict[str, Any]:
        return {"masks": dict(self.masks), "moved": dict(self.moved), "share": self.share}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.masks, self.moved = (
            {n: t.to(self.weights[n].device) for n, t in state[kept].items()} for kept in ("masks", "moved")
        )
        self.share = float(state["share"])

    def options(self) -> dict[str, Any]:
        return {"sparsify": asdict(self.how) | {"exclude": list(patterns_of(self.how.exclude))}}

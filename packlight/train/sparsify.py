"""Gradual pruning of single weights during training.

The share of zeros follows the cubic schedule of Zhu and Gupta 2017 (arXiv 1710.01878, section 3); what goes is chosen
by magnitude, by movement (Sanh et al. 2020, arXiv 2005.07683, section 4): weights that training pushes towards zero
go first, or by sensitivity. Here a weight that went does not come back, where that paper keeps its value aside.

Sensitivity is √(|w| · s), where s = |w| √E[g²] is the root of what the loss would rise by (LeCun et al. 1990, "Optimal
Brain Damage", with the Fisher information for the Hessian): s alone tells what a weight does now, its magnitude what it
may come to. E[g²] is a running mean of squared gradients, a product of one number a row and one a column (Shazeer and
Stern 2018, arXiv 1804.04235, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from packlight.cosines import Waves
from packlight.errors import PacklightError
from packlight.model import patterns_of
from packlight.train.hooks import Hook, Run
from packlight.train.regularise import weights_of

_SCORES = "magnitude", "movement", "sensitivity"
_NEWEST, _TINY = 0.01, 1e-30  # weight of the newest squares in their running mean


@dataclass(frozen=True)
class Sparsity:
    """sparsity: in (0, 1), the share of the weights with two or more axes that is zero in the end. begin, end: shares
    of the run, 0 <= begin < end <= 1, between which it rises. every: >= 1, steps between two prunings. scope: "layer"
    (the same share of each) or "global" (the least of all). score: "magnitude", "movement" or "sensitivity". exclude:
    parameter-name patterns (shell wildcards) that stay dense."""

    sparsity: float
    begin: float = 0.0
    end: float = 0.75
    every: int = 20
    scope: str = "layer"
    score: str = "magnitude"
    exclude: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1 or not 0 <= self.begin < self.end <= 1 or self.every < 1:
            raise PacklightError(
                f"pruning needs sparsity in (0, 1), 0 <= begin < end <= 1 and every >= 1, got {self.sparsity}, "
                f"{self.begin}, {self.end} and {self.every}"
            )
        if self.scope not in ("layer", "global") or self.score not in _SCORES:
            raise PacklightError(
                f"pruning's scope is layer or global and its score one of {', '.join(_SCORES)}, got {self.scope!r}, "
                f"{self.score!r}"
            )

    def at(self, progress: float) -> float:
        """The share of zeros at a share of the run: sparsity · (1 − (1 − t)³)."""
        t = min(1.0, max(0.0, (progress - self.begin) / (self.end - self.begin)))
        return self.sparsity * (1 - (1 - t) ** 3)


class Sparsify(Hook):
    """Prunes as it trains; the weights that went are exactly zero. masks: by parameter name, True where it stays.
    waves: of the parameters that are pruned as sums of waves, by name: of those it is waves that go, and no weight is
    zero."""

    def __init__(self, how: Sparsity, waves: Mapping[str, Waves] | None = None):
        self.how, self.waves = how, dict(waves or {})
        self.weights: dict[str, nn.Parameter] = {}
        self.masks: dict[str, Tensor] = {}
        self.moved: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}
        self.share = 0.0

    def start(self, run: Run) -> None:
        self.weights = dict(weights_of(run.model, self.how.exclude))
        self.share = 0.0
        self.masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}
        if self.how.score == "movement":
            self.moved = {n: torch.zeros_like(w) for n, w in self.weights.items()}
        if self.how.score == "sensitivity":
            self.squares = {n: w.new_zeros(sum(w.flatten(1).shape)) for n, w in self.weights.items()}

    def settled(self, progress: float) -> bool:
        return progress >= self.how.end

    @torch.no_grad()
    def before_step(self, run: Run) -> None:
        for name, weight in self.weights.items():
            if weight.grad is None:
                continue
            if not self.settled(run.progress) and (self.moved or self.squares):
                self._learn(name, self._seen(name, weight.detach()), self._seen(name, weight.grad))
            if name not in self.waves:  # of waves, what the step brings back goes after it
                weight.grad.mul_(self.masks[name])

    def _learn(self, name: str, values: Tensor, gradient: Tensor) -> None:
        if self.moved:
            self.moved[name].addcmul_(values, gradient, value=-1.0)
        if self.squares:
            square = gradient.flatten(1).square()
            self.squares[name].lerp_(torch.cat([square.mean(1), square.mean(0)]), _NEWEST)

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        share = self.how.at(run.progress)
        if share > self.share and (run.step % self.how.every == 0 or run.progress >= self.how.end):
            self._prune(share)
            self.share = share
        for name, weight in self.weights.items():
            if name in self.waves:
                weight.copy_(self.waves[name].sums(self._seen(name, weight) * self.masks[name]))
            else:
                weight.mul_(self.masks[name])

    def end(self, run: Run) -> None:
        self.after_step(run)

    def _seen(self, name: str, values: Tensor) -> Tensor:
        """What of a parameter is pruned: its elements, or the waves that it is the sum of."""
        return self.waves[name].of(values) if name in self.waves else values

    def _score(self, name: str) -> Tensor:
        if name in self.moved:
            return self.moved[name]
        weight = self._seen(name, self.weights[name].detach())
        size = weight.abs()
        if name not in self.squares:
            return size
        rows, columns = self.squares[name][: len(weight)], self.squares[name][len(weight) :]
        return size * (torch.outer(rows, columns) / rows.mean().clamp_min(_TINY)).pow(0.25).reshape(size.shape)

    def _prune(self, share: float) -> None:
        scores = {n: self._score(n).masked_fill(~self.masks[n], -torch.inf) for n in self.weights}
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
        kept = {"masks": dict(self.masks), "moved": dict(self.moved), "squares": dict(self.squares)}
        return {**kept, "share": self.share}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.masks, self.moved, self.squares = (
            {n: t.to(self.weights[n].device) for n, t in state[kept].items()} for kept in ("masks", "moved", "squares")
        )
        self.share = float(state["share"])

    def options(self) -> dict[str, Any]:
        waves = {n: [w.height, w.width] for n, w in self.waves.items()}
        how = asdict(self.how) | {"exclude": list(patterns_of(self.how.exclude))}
        return {"sparsify": how | ({"waves": waves} if waves else {})}

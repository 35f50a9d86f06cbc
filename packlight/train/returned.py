"""The weights that a run returns: the last, their moving average, or those that scored best."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from packlight.model import Model
from packlight.task import Metric
from packlight.train.options import Engine


class Returned:
    """Follows a Model in training. stopped: no score was better for `engine.patience` epochs."""

    def __init__(self, model: Model, engine: Engine):
        self.model, self.engine = model, engine
        averaged = self._live() if engine.ema else {}  # but for masks: infinity less infinity is no number
        self.average = {n: t.clone() for n, t in averaged.items() if t.isfinite().all()}
        self.best: dict[str, Tensor] = {}
        self.best_score: float | None = None
        self.waited, self.stopped = 0, False

    def follow(self) -> None:
        """The weights have moved."""
        if self.engine.ema and self.average:
            live = self._live()
            now = [live[name] for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), now, 1 - self.engine.ema)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged weights in the Model, where there are any; afterwards the trained ones."""
        kept = {n: t.clone() for n, t in self._live().items()} if self.average else {}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(kept)

    def judge(self, score: float, metric: Metric) -> None:
        """Keep what would be returned now if it is the best so far; a tie or no number is not better."""
        sign = 1 if metric.higher_is_better else -1
        if self.best_score is None or sign * score > sign * self.best_score:
            self.best_score, self.waited = score, 0
            self.best = {n: t.clone() for n, t in (self.average or self._live()).items()}
        else:
            self.waited += 1
            self.stopped = self.engine.patience is not None and self.waited >= self.engine.patience

    def settle(self) -> None:
        """Put them into the Model for good."""
        self._put(self.best or self.average)

    def state(self) -> dict[str, Any]:
        return {
            "average": self.average, "best": self.best, "best_score": self.best_score, "waited": self.waited,
            "stopped": self.stopped,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """What `state` gave, tensors on a device."""
        self.average, self.best = ({n: t.to(device) for n, t in state[kept].items()} for kept in ("average", "best"))
        self.best_score, self.waited, self.stopped = (state[n] for n in ("best_score", "waited", "stopped"))

    def _live(self) -> dict[str, Tensor]:
        return {n: t.detach() for n, t in self.model.named_tensors().items() if t.dtype.is_floating_point}

    def _put(self, values: Mapping[str, Tensor]) -> None:
        live = self._live()
        with torch.no_grad():
            for name, value in values.items():
                live[name].copy_(value)

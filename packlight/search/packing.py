"""The smallest `.plt` file whose network loses no more than a budget allows: one price a bit, swept.

Of many tries some seem to lose less than they do, and the smallest file within a budget would be one of those. A dearer
price makes no network better, so drops are evened along the prices before one is chosen.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist

from packlight.codec import Coder, save_packed
from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.model import Model
from packlight.passes.batches import batches_of
from packlight.passes.fold import fold
from packlight.passes.rate_distortion import RateDistortion, curvature
from packlight.passes.sensitivity.change import DIVERGENCE, distance_for
from packlight.search.budget import Budget, Limit
from packlight.task import Task

_BATCH = 16
_DEAREST, _CHEAPEST = 1e-4, 1e-12  # prices, loss a bit
_BISECTIONS, _BEYOND, _FARTHEST = 7, 8, 12.0  # tries, tries, and how much dearer than the best of those before
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Allowed:
    """budget: a limit of the drop. confidence: in [0.5, 1), that data like those it is measured on keep it. samples:
    inputs that tell what each weight matters. judged: validation samples that each try is scored on."""

    budget: str
    confidence: float = 0.5
    samples: int = 2048
    judged: int = 5000

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise PacklightError(f"confidence is in [0.5, 1): 0.5 takes drops as measured; got {self.confidence:g}")

    def counted(self, drop: Measurement) -> float:
        """The drop that counts: at this confidence it is no larger."""
        return drop.value + _NORMAL.inv_cdf(self.confidence) * (drop.high - drop.low) / 2 / _NORMAL.inv_cdf(0.975)


@dataclass(frozen=True)
class Packed:
    """A `.plt` file that was written. model: what it holds. file_bytes: on disk, what is downloaded. memory_bytes: of
    the network's tensors once it is loaded. drop: on validation data, None where nothing was rounded. price: the loss
    that a bit was worth. tries: price → file bytes and drop, of all that was tried."""

    path: Path
    model: Model = field(repr=False)
    file_bytes: int
    memory_bytes: int
    drop: Measurement | None = None
    price: float | None = None
    tries: dict[float, tuple[int, Measurement]] = field(default_factory=dict, repr=False)

    @property
    def ratio(self) -> float:
        """How many times the tensors in memory the file is smaller."""
        return self.memory_bytes / self.file_bytes


def pack_as_is(model: Model, path: Path, coder: Coder) -> Packed:
    """Every bit kept."""
    save_packed(model, path, coder)
    return Packed(path, model, path.stat().st_size, memory_of(model))


def pack_at(
    model: Model, path: Path, coder: Coder, task: Task | None, price: float, exclude: tuple[str, ...], samples: int
) -> Packed:
    """Weights rounded at one price, > 0. Without a task they all count alike."""
    if not price > 0:
        raise PacklightError(f"a price is the loss that one bit is worth, > 0; got {price:g}")
    made = _rounder(model, task, exclude, samples).at(price)
    save_packed(made, path, coder)
    return Packed(path, made, path.stat().st_size, memory_of(made), price=price)


def pack_within(
    model: Model,
    path: Path,
    coder: Coder,
    task: Task,
    allowed: Allowed,
    exclude: tuple[str, ...],
    on_stage: Callable[[str], None] = lambda text: None,
) -> Packed:
    """The smallest file of those tried whose drop on validation data stays within the budget. Raises PacklightError
    where all lose more."""
    sweep = Sweep(fold(model).eval(), path, task, allowed, exclude, on_stage)
    sweep.look(model)
    return sweep.written(coder)


class Sweep:
    """Files of one network within a budget, of the Models that `look` is given, all compared with the network itself.

    tries: of the newest Model, price → file bytes and drop.
    """

    def __init__(
        self, network: Model, path: Path, task: Task, allowed: Allowed, exclude: tuple[str, ...],
        on_stage: Callable[[str], None],
    ):  # fmt: skip
        self.path, self.task, self.exclude, self.allowed, self.on_stage = path, task, exclude, allowed, on_stage
        self.limit = _limit(allowed.budget)
        self.judge = replace(task, validation=task.data("validation").take(allowed.judged))
        self.before = evaluate(network, self.judge, "validation")
        self.most = self.limit.bound({"quality": self.before.measurement})
        self.tries: dict[float, tuple[int, Measurement]] = {}
        self.best: tuple[int, Measurement, float, Model] | None = None

    def look(self, model: Model) -> bool:
        """Try a Model: prices by bisection on their logarithm, then some beyond the best, since drops do not rise
        evenly. Whether one of them kept the budget."""
        self.tries = {}
        if not self._kept(evaluate(model, self.judge, "validation").drop_from(self.before)):
            return False
        self.on_stage("looking at what every weight matters")
        rounder = _rounder(model, self.task, self.exclude, self.allowed.samples)
        low, high = math.log(_CHEAPEST), math.log(_DEAREST)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._within(rounder, math.exp(middle)) else (low, middle)
        for i in range(1, _BEYOND + 1):
            self._within(rounder, math.exp(low) * _FARTHEST ** (i / _BEYOND))
        return self._choose(rounder)

    def _within(self, rounder: RateDistortion, price: float) -> bool:
        made = rounder.at(price)
        drop = evaluate(made, self.judge, "validation").drop_from(self.before)
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            save_packed(made, scratch, Coder.SMALL)
            size = scratch.stat().st_size
        finally:
            scratch.unlink(missing_ok=True)
        self.tries[price] = size, drop
        self.on_stage(f"price {price:.2g}: {size:,} bytes, drop {drop}")
        return self._kept(drop)

    def _kept(self, drop: Measurement) -> bool:
        return self.allowed.counted(drop) <= self.most

    def _choose(self, rounder: RateDistortion) -> bool:
        """Whether a try kept the budget, as it is and evened; the smallest file so far is remembered."""
        prices = sorted(self.tries)
        drops = [self.tries[price][1] for price in prices]
        even = evened([self.allowed.counted(drop) for drop in drops])
        kept = [p for p, drop, e in zip(prices, drops, even, strict=True) if self._kept(drop) and e <= self.most]
        if kept:
            price = min(kept, key=lambda p: self.tries[p][0])
            size, drop = self.tries[price]
            if self.best is None or size < self.best[0]:
                self.best = size, drop, price, rounder.at(price)
        return bool(kept)

    def written(self, coder: Coder) -> Packed:
        """The smallest, as a file."""
        if self.best is None:
            sure = f" at a confidence of {self.allowed.confidence:g}" if self.allowed.confidence > 0.5 else ""
            raise PacklightError(
                f"every price loses more than {self.limit.text}{sure}; allow more, or pack without a budget"
            )
        _, drop, price, made = self.best
        save_packed(made, self.path, coder)
        return Packed(self.path, made, self.path.stat().st_size, memory_of(made), drop, price, self.tries)


def evened(drops: Sequence[float]) -> list[float]:
    """The nearest numbers that never fall: isotonic regression by pooling adjacent violators (Barlow et al. 1972)."""
    pools: list[tuple[float, int]] = []  # sums, counts
    for drop in drops:
        total, count = drop, 1
        while pools and pools[-1][0] * count >= total * pools[-1][1]:
            before, more = pools.pop()
            total, count = total + before, count + more
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]


def _limit(budget: str) -> Limit:
    limits = Budget.parse(budget).limits
    if len(limits) != 1 or limits[0].name != "drop":
        raise PacklightError(f"budget {budget!r}: packing takes one limit, of the drop, e.g. drop<=0.1points")
    return limits[0]


def _rounder(model: Model, task: Task | None, exclude: tuple[str, ...], samples: int) -> RateDistortion:
    model = fold(model).eval()
    if task is None:
        return RateDistortion(model, curvature(model, [], classes=False), exclude)
    data = task.data("train" if task.train is not None else "calibration")
    batches = [x for x, _ in batches_of(model, data, samples, _BATCH)]
    return RateDistortion(model, curvature(model, batches, classes=distance_for(task, model) is DIVERGENCE), exclude)


def memory_of(model: Model) -> int:
    """Bytes of all tensors of a loaded network."""
    return sum(t.nbytes for t in model.named_tensors().values())

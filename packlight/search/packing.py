"""The smallest `.plt` file whose network loses no more than a budget allows: one price a bit, swept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

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
    return Packed(path, model, path.stat().st_size, _memory(model))


def pack_at(
    model: Model, path: Path, coder: Coder, task: Task | None, price: float, exclude: tuple[str, ...], samples: int
) -> Packed:
    """Weights rounded at one price, > 0. Without a task they all count alike."""
    if not price > 0:
        raise PacklightError(f"a price is the loss that one bit is worth, > 0; got {price:g}")
    made = _rounder(model, task, exclude, samples).at(price)
    save_packed(made, path, coder)
    return Packed(path, made, path.stat().st_size, _memory(made), price=price)


def pack_within(
    model: Model,
    path: Path,
    coder: Coder,
    task: Task,
    budget: str,
    exclude: tuple[str, ...],
    samples: int,
    judged: int,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Packed:
    """The smallest file of those tried whose drop on the first `judged` samples of validation data stays within the
    budget: prices by bisection on their logarithm, then some beyond the best, since drops do not rise evenly. Raises
    PacklightError where all lose more."""
    limit = _limit(budget)
    judge = replace(task, validation=task.data("validation").take(judged))
    on_stage("looking at what every weight matters")
    rounder = _rounder(model, task, exclude, samples)
    before = evaluate(rounder.model, judge, "validation")
    allowed = limit.bound({"quality": before.measurement})
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    tries: dict[float, tuple[int, Measurement]] = {}

    def within(price: float) -> bool:
        made = rounder.at(price)
        drop = evaluate(made, judge, "validation").drop_from(before)
        save_packed(made, scratch, Coder.SMALL)
        tries[price] = scratch.stat().st_size, drop
        on_stage(f"price {price:.2g}: {tries[price][0]:,} bytes, drop {drop}")
        return drop.value <= allowed

    try:
        low, high = math.log(_CHEAPEST), math.log(_DEAREST)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if within(math.exp(middle)) else (low, middle)
        for i in range(1, _BEYOND + 1):
            within(math.exp(low) * _FARTHEST ** (i / _BEYOND))
    finally:
        scratch.unlink(missing_ok=True)
    kept = [price for price, (_, drop) in tries.items() if drop.value <= allowed]
    if not kept:
        raise PacklightError(f"every price loses more than {limit.text}; allow more, or pack without a budget")
    price = min(kept, key=lambda price: tries[price][0])
    made = rounder.at(price)
    save_packed(made, path, coder)
    return Packed(path, made, path.stat().st_size, _memory(made), tries[price][1], price, tries)


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


def _memory(model: Model) -> int:
    return sum(t.nbytes for t in model.named_tensors().values())

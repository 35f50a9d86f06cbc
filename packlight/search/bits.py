"""The fewest bits whose measured drop stays within a limit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.model import Model
from packlight.model.numerics import Numerics
from packlight.passes.quantize import Quantization, quantize
from packlight.task import Task

_DROP = re.compile(r"\s*drop\s*<=?\s*(\d+\.?\d*|\.\d+)\s*(points?)?\s*\Z")
_STEPS = {
    "global": [f"{b}bits" for b in (2, 3, 4, 5, 6, 8)],
    "local": [f"{d}dB" for d in range(6, 46, 3)],
    "mixed": [f"{b / 4:g}bits" for b in range(8, 33)],
}  # budgets to try, the smallest network first


def parse_drop(budget: str) -> float | None:
    """The number of "drop<=0.5points"; None of a budget of another kind. Raises PacklightError for other drops."""
    found = _DROP.match(budget)
    if found is None and budget.lstrip().startswith("drop"):
        raise PacklightError(f"budget {budget!r}: give points of the metric, drop<=0.5points")
    return None if found is None else float(found[1])


def within_drop(
    model: Model,
    task: Task,
    numerics: Numerics,
    options: Quantization,
    most: float,
    *,
    samples: int = 1000,
    on_stage: Callable[[str], None] = lambda text: None,
    **listeners: Any,
) -> Model:
    """The quantized Model with the fewest bits of those tried that is at most `most` (in the metric's units) worse than
    the float one on the first `samples` of validation data, paired; by bisection, each try measured as a whole.

    options: whose `bits.mixed` names the preset. Raises PacklightError where even the most bits lose more.
    """
    judge = replace(task, validation=task.data("validation").take(samples))
    before = evaluate(model, judge, "validation")
    steps = _STEPS[str(options.bits.mixed)]

    def tried(i: int) -> tuple[Model, Measurement]:
        made = quantize(model, task, numerics, _with_budget(options, steps[i]), **listeners)
        drop = evaluate(made, judge, "validation").drop_from(before)
        on_stage(f"{steps[i]}: drop {drop}")
        return made, drop

    low, high = -1, len(steps) - 1
    best, drop = tried(high)
    if drop.value > most:
        raise PacklightError(f"{steps[high]} lose {drop}, more than {most:g}; allow more, or round better (rounding=…)")
    lost = ""
    while high - low > 1:
        middle = (low + high) // 2
        made, found = tried(middle)
        if found.value <= most:
            high, best, drop = middle, made, found
        else:
            low, lost = middle, f"; {steps[middle]} lose {found}"
    best.notes = (*best.notes, f"bits by layer: drop {drop} on validation data with {steps[high]}{lost}")
    return best


def _with_budget(options: Quantization, budget: str) -> Quantization:
    return replace(options, bits=replace(options.bits, budget=budget))

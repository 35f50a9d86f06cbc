"""Run calibration data through a Model and record the distribution of the values that will be quantized."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Format
from packlight.passes.quantize.ranges import (
    Affine,
    affine,
    best_range,
    entropy_range,
    fake_quantize,
    percentile_range,
    powers_around,
)
from packlight.passes.watch import Watch

_BINS = 4096
_MOVES = 0.1  # share of a batch in the moving average of extremes
RANGES = ("mse", "minmax", "average", "percentile", "entropy")
_SAMPLED = 1 << 16
_LOOKED_AT = 1 << 13
_BODY = 0.999  # share of magnitudes that are sampled
Values = NDArray[np.float32]


class Histogram:
    """Exact minimum and maximum, and a histogram over [−reach, reach] whose reach doubles when needed.

    Of a large tensor every k-th element stands for k, at most 65,536 a batch and of all channels. The largest, about
    one in a thousand, are all counted: a sample misses outliers that one in a million values has and whose clipping
    costs more than the rounding of all others.
    """

    def __init__(self) -> None:
        self.low, self.high, self.reach = math.inf, -math.inf, 0.0
        self.average: tuple[float, float] | None = None  # of the batches' extremes, moving
        self.counts = torch.zeros(_BINS, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(x))
        self.low, self.high = min(self.low, low), max(self.high, high)
        before = self.average or (low, high)
        self.average = before[0] + _MOVES * (low - before[0]), before[1] + _MOVES * (high - before[1])
        reach = max(abs(low), abs(high))
        if not math.isfinite(reach):
            return
        if self.reach == 0.0:
            self.reach = reach
        while reach > self.reach:
            self.reach *= 2
            middle = self.counts.reshape(-1, 2).sum(1)
            quarter = _BINS // 4
            self.counts = torch.cat([middle.new_zeros(quarter), middle, middle.new_zeros(quarter)])
        if self.reach > 0:
            self._count(x.detach().flatten().float().numpy())

    def _count(self, flat: Values) -> None:
        step = sampling_step(len(flat), _SAMPLED)
        sample = flat[::step]
        if step == 1:
            self.counts += self._binned(sample)
            return
        few = np.abs(sample[:: sampling_step(len(sample), _LOOKED_AT)])
        body = np.partition(few, place := int(_BODY * len(few)))[place]  # any would do: what is larger is all counted
        self.counts += step * self._binned(sample[np.abs(sample) <= body]) + self._binned(flat[np.abs(flat) > body])

    def _binned(self, values: Values) -> Tensor:
        """float64 [bins]: how many values lie in each. Six times as fast as torch.histc."""
        places = ((values / self.reach + 1) * (_BINS / 2)).astype(np.int32)
        return torch.from_numpy(np.bincount(places.clip(0, _BINS - 1), minlength=_BINS)).double()

    def range(self, how: str, form: Format) -> tuple[float, float]:
        """(low, high) to represent: "minmax" the extremes, "average" their moving average over batches; inside the
        extremes, "mse" the range of least squared error, "percentile" all but a ten-thousandth of the values, "entropy"
        the range that loses the least information."""
        if how == "minmax" or self.reach == 0.0:
            return self.low, self.high
        if how == "average" and self.average is not None:
            return self.average
        edges = torch.linspace(-self.reach, self.reach, _BINS + 1, dtype=torch.float64)
        match how:
            case "percentile":
                low, high = percentile_range(self.counts, edges)
            case "entropy":
                low, high = entropy_range(self.counts, edges, form)
            case _:
                low, high = best_range(self.counts, edges, form)
        return max(low, self.low), min(high, self.high)


def grid_of(histogram: Histogram, how: str, form: Format) -> Affine:
    """Scale and zero point of a value. Powers of two: the one of least squared error, or with "minmax" the least that
    holds the extremes."""
    low, high = (torch.tensor(end) for end in histogram.range(how, form))
    if not form.power_of_two:
        return affine(low, high, form)
    if how == "minmax" or histogram.reach == 0.0:
        return powers_around(low, high, form)[0]
    edges = torch.linspace(-histogram.reach, histogram.reach, _BINS + 1, dtype=torch.float64)
    centres = (edges[:-1] + edges[1:]) / 2

    def error(tried: Affine) -> float:
        off = fake_quantize(centres, tried.scale, tried.zero_point, form) - centres
        return float((off.square() * histogram.counts).sum())

    ends = (torch.tensor(histogram.low), torch.tensor(histogram.high))
    return min((*powers_around(*ends, form), *powers_around(low, high, form)), key=error)


def sampling_step(elements: int, most: int) -> int:
    """The least k with elements / k <= most that has no factor in common with `elements`.

    Otherwise every k-th element of [..., channels] always comes from the same few channels, and in transformers the
    large values sit in single channels.
    """
    step = max(1, math.ceil(elements / most))
    while math.gcd(step, elements) > 1:
        step += 1
    return step


def observe(
    model: Model,
    values: Sequence[Node],
    batches: Iterable[Sequence[Tensor]],
    on_batch: Callable[[], None] = lambda: None,
) -> dict[Node, Histogram]:
    """The distribution of each value over the calibration batches (flat inputs each); model in eval mode."""
    watched = {node: Histogram() for node in values}
    recorder = Watch(model, {node: [histogram.add] for node, histogram in watched.items()})
    with torch.inference_mode():
        for inputs in batches:
            recorder.run(*inputs)
            on_batch()
    for node, histogram in watched.items():
        if histogram.low > histogram.high:
            raise PacklightError("the calibration data is empty: no value was seen")
        if not (math.isfinite(histogram.low) and math.isfinite(histogram.high)):
            raise PacklightError(
                f"calibration met NaN or infinity at {model.layer(node)!r}: the network overflows on this data"
            )
    return watched

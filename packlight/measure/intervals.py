"""95 % intervals for shares, paired differences and ratios: pure functions of observations.

Paired 0/1 outcomes. Of n samples only the first model gets b right and only the second c. Their difference
(b − c)/n gets the square-and-add interval (Newcombe 1998, Statistics in Medicine 17:2635; Zou and Donner 2008,
ibid. 27:1693, with the correlation −√(bc / ((n − b)(n − c))) of two multinomial shares) over exact
Clopper–Pearson limits of b/n and c/n. Enumerated, it covers at least 95 % from n = 50 on; no flip at all still
leaves ±3.7/n.

Everything else is resampled: the same rows of both models, 2,000 times. Resampling cannot see what the sample does
not hold, so where it finds no spread at all the interval is what 3.7/n of unseen samples could hide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.measure.measurement import Measurement
from packlight.task import Metric

Array = NDArray[Any]

LEVEL = 0.95
_RESAMPLES = 2000


def share_limits(successes: int, n: int) -> tuple[float, float]:
    """Exact (Clopper–Pearson 1934) limits of a share, from `successes` of n >= 1."""
    from scipy.special import betaincinv

    tail = (1 - LEVEL) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def unseen_share(n: int) -> float:
    """The largest share of a population that n >= 1 samples may all have missed: 3.7/n."""
    return share_limits(0, n)[1]


def flip_limits(lost: int, won: int, n: int) -> tuple[float, float]:
    """Limits of (lost − won) / n for paired 0/1 outcomes."""
    down, up = lost / n, won / n
    down_low, down_high = share_limits(lost, n)
    up_low, up_high = share_limits(won, n)
    correlation = -math.sqrt(down * up / ((1 - down) * (1 - up))) if lost < n and won < n else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(a * a + b * b - 2 * correlation * a * b)

    middle = down - up
    return middle - reach(down - down_low, up_high - up), middle + reach(down_high - down, up - up_low)


def is_zero_one(rows: Array) -> bool:
    """Whether every row is a single 0 or 1."""
    return rows.shape[1] == 1 and bool(np.isin(rows, (0.0, 1.0)).all())


def quality(rows: Array, metric: Metric) -> Measurement:
    """A metric's value over its per-sample rows [n, k]."""
    n, value = len(rows), metric.aggregate(rows)
    if metric.binary and is_zero_one(rows):
        low, high = share_limits(int(rows.sum()), n)
        return Measurement(value, metric.unit, n, 100 * low, 100 * high)
    low, high = resampled(n, lambda index: metric.aggregate(rows[index]))
    if low == high:
        worst, best = (0.0, 100.0) if metric.unit == "%" else (0.0, 2 * value)
        low, high = value - unseen_share(n) * (value - worst), value + unseen_share(n) * (best - value)
    return Measurement(value, metric.unit, n, low, high)


def drop(before: Array, after: Array, metric: Metric) -> Measurement:
    """How much worse `after` is than `before`, in the metric's own units ("points"); negative when better.

    Rows of the same samples in the same order. For metrics where lower is better a rise is a drop.
    """
    n, sign = len(before), 1.0 if metric.higher_is_better else -1.0
    value = sign * (metric.aggregate(before) - metric.aggregate(after))
    unit = "points" if metric.unit == "%" else metric.unit
    if metric.binary and is_zero_one(before) and is_zero_one(after):
        lost, won = int(((before == 1) & (after == 0)).sum()), int(((before == 0) & (after == 1)).sum())
        if not metric.higher_is_better:
            lost, won = won, lost
        low, high = flip_limits(lost, won, n)
        return Measurement(value, unit, n, 100 * low, 100 * high)
    low, high = resampled(n, lambda i: sign * (metric.aggregate(before[i]) - metric.aggregate(after[i])))
    if low == high:
        hidden = unseen_share(n) * (100.0 if metric.unit == "%" else abs(metric.aggregate(before)))
        low, high = value - hidden, value + hidden
    return Measurement(value, unit, n, low, high)


def share(rows: Array) -> Measurement:
    """A mean of per-sample shares [n, 1] in percent, exact for 0/1 rows."""
    return quality(rows, Metric("share", lambda outputs, targets: rows, _percent, binary=True))


def _percent(rows: Array) -> float:
    return 100 * float(rows.mean())


def resampled(n: int, statistic: Callable[[Array], float], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap limits of a statistic of sample indices (Efron and Tibshirani 1993, chapter 13)."""
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(0, n, n)) for _ in range(_RESAMPLES)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def median(values: Sequence[float], unit: str) -> Measurement:
    """The median of repeated timings with its bootstrap interval."""
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(0, len(array), (_RESAMPLES, len(array)))
    low, high = np.quantile(np.median(array[draws], axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measurement(float(np.median(array)), unit, len(array), float(low), float(high))

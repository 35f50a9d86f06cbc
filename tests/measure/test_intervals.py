"""Intervals: exact where counts allow it, and never narrower than what the sample can know."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import beta

from packlight.measure import intervals
from packlight.measure.measurement import Measurement
from packlight.task import Metric
from packlight.task.metrics import accuracy, f1, mean_squared_error

RATES = [0.002, 0.01, 0.05, 0.2, 0.45]


@pytest.mark.parametrize("n", [1, 7, 50, 1000])
def test_share_limits_are_clopper_and_pearsons(n):
    for k in range(0, n + 1, max(1, n // 10)):
        low, high = intervals.share_limits(k, n)
        assert low == pytest.approx(beta.ppf(0.025, k, n - k + 1) if k else 0.0, abs=1e-12)
        assert high == pytest.approx(beta.ppf(0.975, k + 1, n - k) if k < n else 1.0, abs=1e-12)


def test_flip_limits_equal_a_case_done_on_paper():
    # Clopper–Pearson: 3 of 10 → (0.06674, 0.65245), 1 of 10 → (0.00253, 0.44502); r = −√(3·1/(7·9)) = −0.21822
    low, high = intervals.flip_limits(3, 1, 10)
    assert low == pytest.approx(0.2 - math.sqrt(0.23326**2 + 0.34502**2 + 2 * 0.21822 * 0.23326 * 0.34502), abs=1e-4)
    assert high == pytest.approx(0.2 + math.sqrt(0.35245**2 + 0.09747**2 + 2 * 0.21822 * 0.35245 * 0.09747), abs=1e-4)


def probabilities(n: int, lost: np.ndarray, won: np.ndarray, p_lost: float, p_won: float) -> np.ndarray:
    """Of `lost` and `won` flips among n samples: the trinomial distribution."""
    same = n - lost - won
    logs = gammaln(n + 1) - gammaln(lost + 1) - gammaln(won + 1) - gammaln(same + 1)
    return np.exp(logs + lost * math.log(p_lost) + won * math.log(p_won) + same * math.log(1 - p_lost - p_won))


@pytest.mark.parametrize("n", [50, 100, 200])
def test_flip_limits_cover_the_truth_95_percent_of_the_time_whatever_the_rates(n):
    pairs = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
    chances = {
        (p, q): probabilities(n, pairs[:, 0], pairs[:, 1], p, q) for p in RATES for q in RATES if p + q < 1 and p >= q
    }
    possible = np.max(list(chances.values()), axis=0) > 1e-7
    limits = np.array([intervals.flip_limits(int(b), int(c), n) for b, c in pairs[possible]])
    covered = {}
    for (p, q), chance in chances.items():
        inside = (limits[:, 0] <= p - q) & (p - q <= limits[:, 1])
        covered[p, q] = float(chance[possible][inside].sum())
    worst = min(covered, key=covered.__getitem__)
    assert covered[worst] >= 0.95, (worst, covered[worst])
    assert np.mean(list(covered.values())) < 0.995, "so wide that nothing can ever be proven"


@given(st.integers(1, 500), st.data())
def test_flip_limits_hold_the_estimate_and_mirror_when_the_models_change_places(n, data):
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    low, high = intervals.flip_limits(lost, won, n)
    assert -1 - 1e-9 <= low <= (lost - won) / n <= high <= 1 + 1e-9
    assert intervals.flip_limits(won, lost, n) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize("n", [10, 425, 10_000])
def test_no_flip_at_all_is_no_certainty(n):
    low, high = intervals.flip_limits(0, 0, n)
    assert high == pytest.approx(1 - 0.025 ** (1 / n), rel=1e-6)
    assert low == -high


def rows(correct: int, n: int) -> np.ndarray:
    return (np.arange(n) < correct).astype(float)[:, None]


def test_a_drop_of_accuracy_is_in_points_with_the_exact_interval():
    found = intervals.drop(rows(90, 100), rows(88, 100), accuracy())
    low, high = intervals.flip_limits(2, 0, 100)
    assert (found.value, found.unit, found.n) == (pytest.approx(2.0), "points", 100)
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high))


@pytest.mark.parametrize("higher", [True, False], ids=["higher is better", "lower is better"])
def test_becoming_worse_is_a_positive_drop_and_its_interval_lies_around_it(higher):
    mean = Metric("share", lambda o, t: t, lambda r: 100 * float(r.mean()), higher_is_better=higher, binary=True)
    better, worse = (rows(90, 100), rows(70, 100)) if higher else (rows(70, 100), rows(90, 100))
    found = intervals.drop(better, worse, mean)
    assert found.value == pytest.approx(20)
    assert 0 < found.low < 20 < found.high
    back = intervals.drop(worse, better, mean)
    assert (back.value, back.low, back.high) == pytest.approx((-20, -found.high, -found.low))


def test_a_rising_error_is_a_drop_in_the_errors_own_unit():
    errors = np.random.default_rng(0).uniform(1, 2, (200, 1))
    found = intervals.drop(errors, errors + 0.5, mean_squared_error())
    assert (found.value, found.unit) == (pytest.approx(0.5), "squared error")
    assert found.low == pytest.approx(0.5)


def test_the_paired_bootstrap_is_far_narrower_than_the_two_samples_alone():
    generator = np.random.default_rng(0)
    before = generator.normal(5, 3, (400, 1))
    after = before + generator.normal(0.1, 0.05, (400, 1))
    found = intervals.drop(before, after, mean_squared_error())
    spread = 1.96 * 0.05 / math.sqrt(400)
    # the bootstrap's own noise at 2,000 resamples is about 3 % of the half-width, the sample's spread another 4 %
    assert found.high - found.value == pytest.approx(spread, rel=0.15)
    alone = intervals.quality(after, mean_squared_error())
    assert alone.high - alone.low > 20 * (found.high - found.low)


def test_resampling_is_the_same_every_time():
    values = np.random.default_rng(1).normal(size=300)

    def mean(index):
        return float(values[index].mean())

    assert intervals.resampled(300, mean) == intervals.resampled(300, mean)
    assert intervals.resampled(300, mean) != intervals.resampled(300, mean, seed=1)
    assert intervals.median(values, "ms") == intervals.median(values, "ms")


@pytest.mark.parametrize(
    ("metric", "same"),
    [(accuracy(), np.full((50, 1), 0.5)), (f1(), np.tile([[0.0, 0.0], [1.0, 1.0]], (25, 1))),
     (mean_squared_error(), np.full((50, 1), 4.0))],
    ids=["half right in every sample", "f1 without a flip", "equal errors"],
)  # fmt: skip
def test_rows_without_any_spread_still_leave_what_unseen_samples_could_hide(metric, same):
    hidden = intervals.unseen_share(50)
    scale = 100 if metric.unit == "%" else 4.0
    drop = intervals.drop(same, same, metric)
    assert (drop.value, drop.low, drop.high) == pytest.approx((0, -scale * hidden, scale * hidden))
    quality = intervals.quality(same, metric)
    assert quality.low < quality.value <= quality.high


def test_a_single_sample_says_next_to_nothing():
    found = intervals.quality(np.array([[1.0]]), accuracy())
    assert (found.value, found.low, found.high) == (100, pytest.approx(2.5), 100)


def test_fractional_rows_are_resampled_and_zero_one_rows_are_not():
    fractional = intervals.share(np.array([[0.25], [0.75]] * 50))
    exact = intervals.share(np.array([[0.0], [1.0]] * 50))
    assert fractional.value == exact.value == 50
    assert (exact.low, exact.high) == pytest.approx([100 * x for x in intervals.share_limits(50, 100)])
    # half the spread of 0 and 1: ±4.9 instead of ±10.2
    assert fractional.high - fractional.low == pytest.approx(9.8, abs=0.8)


def test_a_median_has_an_interval_that_holds_it_and_counts_its_observations():
    times = np.random.default_rng(0).lognormal(0, 0.1, 25)
    found = intervals.median(times, "ms")
    assert found.n == 25
    assert times.min() <= found.low < found.value == np.median(times) < found.high <= times.max()
    assert intervals.median([2.0] * 9, "ms") == Measurement(2.0, "ms", 9, 2.0, 2.0)

"""Budgets: what users may write, and what keeps it."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.search.budget import MEASURED, Budget, parse_time

BASELINE = {
    "quality": Measurement(90.0, "%", 1000, 88, 92),
    "drop_points": Measurement.exact(0.0, "points", 1000),
    "latency_ms": Measurement(8.0, "ms", 25, 7.9, 8.1),
    "latency_ratio": Measurement(1.0, "×", 25, 1.0, 1.0),
    "file_bytes": Measurement.exact(1_000_000, "bytes"),
    "peak_memory_bytes": Measurement.exact(50e6, "bytes"),
    "cold_start_ms": Measurement.exact(100.0, "ms"),
}


def form(**changes) -> dict[str, Measurement]:
    return BASELINE | changes


def drop(value: float, half: float = 0.0, n: int = 1000) -> dict[str, Measurement]:
    return form(drop_points=Measurement(value, "points", n, value - half, value + half))


@pytest.mark.parametrize(
    ("text", "measurement", "bound"),
    [
        ("drop<=1%", "drop_points", 0.9),
        ("drop < 0.3 points", "drop_points", 0.3),
        ("Drop ≤ .5 Points", "drop_points", 0.5),
        ("latency<=5ms", "latency_ms", 5.0),
        ("latency<=0.002s", "latency_ms", 2.0),
        ("latency<=800us", "latency_ms", 0.8),
        ("latency<=50%", "latency_ratio", 0.5),
        ("size<=500kB", "file_bytes", 500_000),
        ("file<=1MiB", "file_bytes", 1 << 20),
        ("download <= 2.5 MB", "file_bytes", 2_500_000),
        ("size<=300%", "file_bytes", 3_000_000),
        ("memory<=20MB", "peak_memory_bytes", 20e6),
        ("memory<=10%", "peak_memory_bytes", 5e6),
        ("cold_start<=1s", "cold_start_ms", 1000.0),
    ],
)
def test_a_limit_is_read_in_its_own_unit(text, measurement, bound):
    (limit,) = Budget.parse(text).limits
    assert limit.measurement == measurement
    assert limit.bound(BASELINE) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty.*drop<=1%, latency:min"),
        (" , ;", "empty"),
        ("drop", "'drop' is neither a limit nor a goal"),
        ("accuracy>=90%", "neither.*drop, latency, size, file, download, memory, cold_start"),
        ("energy<=3J", "'energy' is not measured; choose one of drop, latency"),
        ("drop<=1", "a unit is missing; use %.*points"),
        ("size<=5", "a unit is missing; use %.*kb"),
        ("drop<=1ms", "no unit 'ms' for drop"),
        ("latency<=5kB", "no unit 'kb' for latency; use % .* ms, s, us"),
        ("drop<=-1%", "neither"),
        ("drop<=1.2.3%", "neither"),
        ("drop<=nan%", "neither"),
        ("drop<=1%1", "neither"),
        ("latency:min, size:min", "has 2 goals; give one"),
        ("speed:min", "'speed' is not measured"),
        ("latency:max", "neither"),
        ("drop<=1% latency:min", "neither"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_lists_what_can(text, said):
    with pytest.raises(PacklightError, match=said) as caught:
        Budget.parse(text)
    assert "\n" not in str(caught.value)


UNITS = {"drop": ["%", "points"], "latency": ["%", "ms", "s", "us", "µs"], "cold_start": ["%", "ms", "s"]}
numbers = st.floats(1e-3, 1e6).map(lambda x: f"{x:.4f}") | st.integers(0, 10**9).map(str)


@st.composite
def budgets(draw) -> str:
    parts = []
    for name in draw(st.lists(st.sampled_from(sorted(MEASURED)), min_size=1, max_size=4)):
        unit = draw(st.sampled_from(UNITS.get(name, ["%", "B", "bytes", "kB", "MB", "GB", "KiB", "MiB", "GiB"])))
        sign = draw(st.sampled_from(["<=", "<", "≤", " <= "]))
        parts.append(f"{name}{sign}{draw(numbers)}{draw(st.sampled_from(['', ' ']))}{unit}")
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), f"{draw(st.sampled_from(sorted(MEASURED)))}:min")
    return draw(st.sampled_from([", ", ",", ";"])).join(parts)


@given(budgets())
def test_whatever_follows_the_grammar_is_read_and_reads_the_same_when_written(text):
    budget = Budget.parse(text)
    assert Budget.parse(str(budget)) == budget
    assert len(budget.limits) == len([p for p in text.replace(";", ",").split(",") if "min" not in p])
    assert all(math.isfinite(limit.bound(BASELINE)) and limit.bound(BASELINE) >= 0 for limit in budget.limits)


@given(st.text(max_size=40))
def test_anything_else_is_a_packlight_error_and_never_a_crash(text):
    with contextlib.suppress(PacklightError):
        Budget.parse(text)


def test_without_a_goal_latency_is_the_goal():
    assert Budget.parse("drop<=1%").minimise == "latency_ms"
    assert Budget.parse("size:min, drop<=1%").minimise == "file_bytes"


@pytest.mark.parametrize(
    ("value", "half", "met", "proven"),
    [(0.2, 0.1, True, True), (0.2, 0.4, True, False), (0.5, 0.0, True, True), (0.6, 0.4, False, False),
     (-1.0, 0.2, True, True)],
    ids=["proven", "met", "on the line", "missed", "better than before"],
)  # fmt: skip
def test_met_is_the_estimate_and_proven_the_bad_end(value, half, met, proven):
    verdict = Budget.parse("drop<=0.5points").judge(drop(value, half), BASELINE)
    assert (verdict.met, verdict.proven) == (met, proven)
    assert (verdict.excess > 0) == (not met)


def test_a_missed_limit_is_never_proven_however_narrow_its_interval():
    odd = form(drop_points=Measurement(0.6, "points", 10, 0.1, 0.4))
    assert not Budget.parse("drop<=0.5points").judge(odd, BASELINE).proven


def test_every_limit_counts_and_the_worst_one_is_the_excess():
    budget = Budget.parse("drop<=0.5points, size<=100kB")
    verdict = budget.judge(drop(1.0), BASELINE)
    assert not verdict.met
    assert verdict.excess == pytest.approx(9.0)
    assert "drop<=0.5points: measured 1 points, allowed 0.5 points" in verdict.reason
    assert "size<=100kB: measured 1,000,000 bytes, allowed 100,000 bytes" in verdict.reason


def test_a_relative_drop_of_an_error_is_relative_to_the_error():
    """Mean squared error 0.5 → 0.52: lower is better, so the drop is +0.02, which is 4 % of the baseline's 0.5."""
    baseline = BASELINE | {"quality": Measurement(0.5, "squared error", 100, 0.4, 0.6)}
    worse = form(drop_points=Measurement(0.02, "squared error", 100, 0.015, 0.025))
    assert Budget.parse("drop<=5%").judge(worse, baseline).proven
    assert Budget.parse("drop<=4.5%").judge(worse, baseline).met
    assert not Budget.parse("drop<=3%").judge(worse, baseline).met


def test_a_relative_latency_is_judged_by_the_ratio_that_was_measured_beside_the_baseline():
    """The baseline's own 8 ms were timed at another moment than the form's 4.4 ms."""
    fast = form(latency_ms=Measurement(4.4, "ms", 25, 4.3, 4.5), latency_ratio=Measurement(0.45, "×", 25, 0.44, 0.47))
    assert Budget.parse("latency<=50%").judge(fast, BASELINE).proven
    assert not Budget.parse("latency<=40%").judge(fast, BASELINE).met


def test_a_proof_names_a_number_of_samples_that_would_do():
    """Half-width 0.4 at n = 1,000 must shrink to 0.3: (4/3)² × 1,000 = 1,778, in full hundreds."""
    verdict = Budget.parse("drop<=0.5points").judge(drop(0.2, 0.4), BASELINE)
    assert "about 1,800 samples would prove it, 1,000 were there" in verdict.reason
    half = 0.4 * math.sqrt(1000 / 1800)
    assert Budget.parse("drop<=0.5points").judge(drop(0.2, half, 1800), BASELINE).proven


def test_only_samples_are_counted_not_rounds_of_timing():
    slow = form(latency_ms=Measurement(4.9, "ms", 25, 4.7, 5.1))
    verdict = Budget.parse("latency<=5ms").judge(slow, BASELINE)
    assert verdict.met and not verdict.proven
    assert "samples" not in verdict.reason


def test_goals_alone_are_no_limit():
    verdict = Budget.parse("size:min").judge(drop(50.0, 3.0), BASELINE)
    assert verdict.met and verdict.proven and verdict.reason == "no limit set"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("90s", 90), ("20m", 1200), ("1.5h", 5400), ("45", 45), (0.01, 0.01), (60, 60), (" 2 M ", 120)],
)
def test_times_are_read_in_seconds(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0", 0, -1, "1.2.3s", "5d", float("nan"), float("inf")])
def test_a_time_that_cannot_be_read_or_is_over_already_is_refused(text):
    with pytest.raises(PacklightError, match=r"give a positive time, e\.g\. 90s, 20m or 1\.5h"):
        parse_time(text)

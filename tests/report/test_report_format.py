"""Numbers as text."""

import math

import pytest
from made_results import number

from packlight.report import format as fmt


def plain(text):
    """With ordinary spaces, to read more easily here."""
    return text.replace(fmt.SPACE, " ")


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [(1234.5, 1, "1,234.5"), (-0.037, 2, "−0.04"), (-0.001, 2, "0.00"), (0.0, 0, "0"), (-1234567.0, 0, "−1,234,567")],
)
def test_fixed_has_separators_and_a_true_minus(value, places, text):
    assert fmt.fixed(value, places) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8459, "0.846"), (12345, "12,345"), (9.996, "10.0"), (0.0, "0"), (99.96, "100"), (1.5, "1.50")],
)
def test_significant_keeps_three_digits_and_whole_numbers(value, text):
    assert fmt.significant(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (316_530, "316.5 kB"), (999_949, "999.9 kB"), (999_950, "1.000 MB"),
     (1_095_943, "1.096 MB"), (102_400_000, "102.4 MB"), (25_276_502_016, "25.28 GB")],
)  # fmt: skip
def test_size_is_in_decimal_units(count, text):
    assert plain(fmt.size(count)) == text


@pytest.mark.parametrize(
    ("count", "text"), [(640, "640"), (112_896, "113 k"), (1_806_336, "1.81 M"), (4_089_184_256, "4.09 G"), (None, "–")]
)
def test_compact_is_three_digits_and_a_letter(count, text):
    assert plain(fmt.compact(count)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.44, "8.4 s"), (59.97, "1 min 0 s"), (100.7, "1 min 41 s"), (7_500, "2 h 5 min")]
)
def test_duration_is_in_two_units_at_most(seconds, text):
    assert plain(fmt.duration(seconds)) == text


@pytest.mark.parametrize(
    ("found", "value", "interval"),
    [
        pytest.param((0.84597, "ms", 0.7712, 0.84897), "0.846 ms", "0.771 to 0.849", id="ms"),
        pytest.param((5.1636, "ms", 1.372, 5.219), "5.2 ms", "1.4 to 5.2", id="ms-wide"),
        pytest.param((1089.88, "samples/s", 1081.9, 1095.4), "1,090 samples/s", "1,082 to 1,095", id="rate"),
        pytest.param((91.234, "%", 90.66, 91.78), "91.23 %", "90.66 to 91.78", id="percent"),
        pytest.param((0.0, "points", -0.0369, 0.0369), "0.00 points", "−0.04 to 0.04", id="points"),
        pytest.param((0.0012, "points", -0.0007, 0.0031), "0.001 points", "−0.001 to 0.003", id="points-narrow"),
        pytest.param((3.46237, "×", 3.46237, 3.46237), "3.46×", "", id="exact-ratio"),
        pytest.param((1.2765, "×", 1.2523, 1.3594), "1.28×", "1.25× to 1.36×", id="ratio"),
        pytest.param((316_530, "bytes", 316_530, 316_530), "316.5 kB", "", id="bytes"),
        pytest.param((640, "bytes", 640, 640), "640 B", "", id="few-bytes"),
        pytest.param((0.0054280, "relative", 0.005428, 0.005428), "0.00543", "", id="relative"),
        pytest.param((1.2e-7, "relative", 1.2e-7, 1.2e-7), "1.2e−07", "", id="tiny"),
        pytest.param((0.913, "", 0.9, 0.93), "0.913", "0.900 to 0.930", id="no-unit"),
    ],
)
def test_a_measurement_is_written_as_far_as_its_interval_knows(found, value, interval):
    measurement = dict(zip(("value", "unit", "low", "high"), found, strict=True))
    assert plain(fmt.value(measurement)) == value
    assert fmt.interval(measurement) == interval


@pytest.mark.parametrize("nothing", [None, {}, {"value": None}, {"value": math.nan}, {"value": "1"}, {"value": True}])
def test_what_was_not_measured_is_a_dash(nothing):
    assert (fmt.value(nothing), fmt.interval(nothing), fmt.inverse(nothing)) == ("–", "", None)


def test_half_an_interval_is_none():
    assert fmt.interval({"value": 1.0, "unit": "ms", "low": 0.5, "high": None}) == ""


def test_the_inverse_of_a_ratio_turns_its_interval_round():
    speed = fmt.inverse(number(0.5, "×", 0.1))
    assert (speed["low"], speed["value"], speed["high"]) == pytest.approx((1 / 0.6, 2.0, 1 / 0.4))


def test_a_speed_one_percent_off_reads_differently():
    assert fmt.value(fmt.inverse(number(0.5, "×"))) != fmt.value(fmt.inverse(number(0.505, "×")))


def test_plural_knows_one():
    assert [plain(fmt.plural(n, "thread")) for n in (1, 2, 1000)] == ["1 thread", "2 threads", "1,000 threads"]

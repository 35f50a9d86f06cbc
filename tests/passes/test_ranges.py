"""Scales, zero points and searched ranges: pure functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from packlight.errors import PacklightError
from packlight.model.numerics import Format
from packlight.passes.quantize.calibrate import Histogram
from packlight.passes.quantize.ranges import (
    affine,
    best_range,
    entropy_range,
    fake_quantize,
    percentile_range,
    room_for_bias,
    weight_scales,
)

U8 = Format(8, signed=False, symmetric=False)
S8 = Format(8, signed=True, symmetric=True)
PER_CHANNEL = Format(8, signed=True, symmetric=True, per_channel=True)


def test_formats_by_hand() -> None:
    assert (U8.low, U8.high) == (0, 255)
    assert (S8.low, S8.high) == (-127, 127)
    assert (Format(8, signed=True, symmetric=False).low, Format(4).high) == (-128, 7)
    with pytest.raises(PacklightError, match="2 to 8 bits, got 1"):
        Format(1)


def test_affine_by_hand() -> None:
    scale, zero = affine(torch.tensor(-1.0), torch.tensor(254.0), U8)
    assert float(scale) == 1.0 and int(zero) == 1
    scale, zero = affine(torch.tensor(-2.54), torch.tensor(1.0), S8)
    assert float(scale) == pytest.approx(0.02) and int(zero) == 0
    scale, zero = affine(torch.tensor(3.0), torch.tensor(5.1), U8)
    assert float(scale) == pytest.approx(0.02) and int(zero) == 0, "the range is widened to hold 0"


def test_a_constant_zero_value_gets_a_usable_scale() -> None:
    scale, zero = affine(torch.tensor(0.0), torch.tensor(0.0), U8)
    assert float(scale) > 0 and float(fake_quantize(torch.zeros(1), scale, zero, U8)) == 0


@settings(max_examples=200, deadline=None)
@given(
    low=st.floats(-1e3, 0),
    high=st.floats(0, 1e3),
    x=st.floats(0, 1),
    form=st.sampled_from([U8, S8, Format(4), Format(2)]),
)
def test_rounding_is_off_by_half_a_step_at_most_and_zero_is_exact(
    low: float, high: float, x: float, form: Format
) -> None:
    scale, zero = affine(torch.tensor(low), torch.tensor(high), form)
    value = torch.tensor(low + x * (high - low), dtype=torch.float64)
    # the zero point is rounded, so the ends of an affine range may be clipped by half a step more
    slack = 0.5 if form.symmetric else 1.0
    assert abs(float(fake_quantize(value, scale, zero, form) - value)) <= float(scale) * slack * (1 + 1e-9)
    assert float(fake_quantize(torch.zeros((), dtype=torch.float64), scale, zero, form)) == 0.0


def test_an_outlier_is_clipped_when_that_lowers_the_squared_error() -> None:
    histogram = Histogram()
    bulk = torch.linspace(0, 1, 10_000)
    histogram.add(torch.cat([bulk, torch.tensor([4.0])]))
    four_bits = Format(4, signed=False, symmetric=False)
    low, high = histogram.range("mse", four_bits)
    assert low == 0 and 0.9 < high < 3.0
    assert histogram.range("minmax", four_bits) == (0.0, 4.0)

    def error(top: float) -> float:
        scale, zero = affine(torch.tensor(0.0), torch.tensor(top), four_bits)
        x = torch.cat([bulk, torch.tensor([4.0])]).double()
        return float((fake_quantize(x, scale, zero, four_bits) - x).square().sum())

    assert error(high) < error(4.0)


def test_a_uniform_value_keeps_its_range() -> None:
    edges = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    low, high = best_range(torch.ones(1000), edges, U8)
    assert low == pytest.approx(-1, abs=0.02) and high == pytest.approx(1, abs=0.02)


def test_growing_a_histogram_keeps_every_count_and_the_exact_extremes() -> None:
    histogram = Histogram()
    histogram.add(torch.tensor([0.5, -0.25]))
    histogram.add(torch.tensor([7.0]))
    histogram.add(torch.tensor([-100.0]))
    assert float(histogram.counts.sum()) == 4
    assert (histogram.low, histogram.high) == (-100.0, 7.0)
    assert histogram.reach >= 100


def test_weight_scales_per_channel_by_hand() -> None:
    weight = torch.tensor([[1.27, -0.5], [0.0, -12.7]])
    assert weight_scales(weight, PER_CHANNEL, search=False).tolist() == pytest.approx([0.01, 0.1])
    assert weight_scales(weight, S8, search=False).tolist() == pytest.approx([0.1])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_searched_weight_scales_never_have_the_larger_error(bits: int) -> None:
    form = Format(bits, per_channel=True)
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    errors = []
    for search in (False, True):
        scale = weight_scales(weight, form, search=search)[:, None]
        errors.append((fake_quantize(weight, scale, torch.zeros(()), form) - weight).square().sum(1))
    assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
    if bits <= 4:
        assert errors[1].sum() < 0.9 * errors[0].sum()


def test_a_channel_of_zero_weights_gets_a_scale_that_its_bias_fits_in() -> None:
    scales = room_for_bias(torch.tensor([0.01, 1e-12]), torch.tensor([1.0, -1.0]), 0.1)
    assert float(scales[0]) == pytest.approx(0.01)
    assert 1 / (0.1 * float(scales[1])) == pytest.approx(2**30, rel=1e-6)
    shared = room_for_bias(torch.tensor([1e-12]), torch.tensor([1.0, -4.0]), 0.1)
    assert 4 / (0.1 * float(shared)) == pytest.approx(2**30, rel=1e-6)


def test_a_percentile_leaves_out_the_tails_and_no_more() -> None:
    edges = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    counts = torch.ones(1000)
    low, high = percentile_range(counts, edges, 0.9)
    assert low == pytest.approx(-0.9, abs=0.005) and high == pytest.approx(0.9, abs=0.005)
    counts[:500] = 0
    assert percentile_range(counts, edges)[0] == pytest.approx(0.0, abs=1e-9)
    assert percentile_range(torch.zeros(1000), edges) == (0.0, 0.0)


def test_entropy_clips_a_thin_tail_at_few_bits_and_keeps_an_even_range() -> None:
    edges = torch.linspace(0, 8, 4097, dtype=torch.float64)
    centres = (edges[1:] + edges[:-1]) / 2
    four = Format(4, signed=False, symmetric=False)
    low, high = entropy_range((1e6 * (-4 * centres).exp()).floor(), edges, four)
    assert low == 0 and high < 0.8 * 8 * 0.45
    assert entropy_range(torch.ones(4096), edges, four)[1] == pytest.approx(8, rel=0.02)
    assert entropy_range(torch.zeros(4096), edges, four) == (0.0, 0.0)


def test_the_moving_average_of_extremes_forgets_a_single_batch() -> None:
    histogram = Histogram()
    for top in (1.0, 1.0, 11.0, 1.0):
        histogram.add(torch.tensor([0.0, top]))
    low, high = histogram.range("average", U8)
    assert low == 0 and high == pytest.approx(1 + 0.1 * 10 * 0.9) and histogram.range("minmax", U8) == (0.0, 11.0)

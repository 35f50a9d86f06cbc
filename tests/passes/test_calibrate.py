"""What calibration records of large tensors."""

import math

import pytest
import torch

from packlight.model.numerics import Format
from packlight.passes.quantize.calibrate import Histogram, sampling_step

UINT8 = Format(8, signed=False, symmetric=False)


@pytest.mark.parametrize("elements", [1, 65_536, 65_537, 32 * 128 * 384, 3 * 224 * 224 * 32])
def test_a_sampling_step_takes_few_elements_and_all_channels(elements):
    step = sampling_step(elements, 1 << 16)
    assert elements / step <= 1 << 16 and math.gcd(step, elements) == 1


def test_an_outlier_channel_is_seen_whatever_its_place():
    # 24 divides 384 and is what 32 · 128 · 384 elements would be thinned by: channels 1 to 23 of 24 were never seen
    for channel in (0, 1, 17):
        x = torch.randn(32, 128, 384, generator=torch.Generator().manual_seed(0))
        x[..., channel] += 25
        seen = Histogram()
        seen.add(x)
        assert seen.range("mse", UINT8)[1] > 24


def test_rare_outliers_keep_their_weight_in_the_squared_error():
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)) * 0.1
    x[:20] = 20.0
    seen = Histogram()
    seen.add(x)
    # clipped at 5 they would cost 20 · 15² = 4,500; rounding all others in steps of 20/255 costs 2e6 · 5e-4 = 1,000
    assert seen.range("mse", UINT8)[1] > 15
    assert float(seen.counts.sum()) == pytest.approx(2_000_000, rel=1e-3)

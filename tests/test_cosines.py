"""Weights as sums of cosine waves: the same bits on every machine, and back."""

import numpy as np
import pytest
import torch

from packlight.cosines import LARGEST, LONGEST, Waves, _cosines

SIDES = [(28, 28), (3, 3), (1, 64), (49, 10), (64, 64), (2, 1)]


@pytest.mark.parametrize(("height", "width"), SIDES)
def test_weights_are_the_sum_of_their_waves(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((5, 2 * height * width))
    waves = Waves(height, width)
    amounts = waves.of(weights)
    assert np.allclose(waves.sums(amounts), weights, atol=1e-12)
    assert np.sum(amounts**2) == pytest.approx(np.sum(weights**2), rel=1e-3)  # cosines are rounded, by 2⁻¹⁵ at most
    flat = torch.from_numpy(weights)
    assert torch.allclose(waves.of(flat), torch.from_numpy(amounts))


def test_a_constant_picture_is_one_wave() -> None:
    amounts = Waves(4, 6).of(np.full((1, 24), 0.5))
    assert amounts[0, 0] == pytest.approx(0.5 * 24**0.5, rel=1e-4)
    assert np.abs(amounts[0, 1:]).max() < 1e-4


def test_a_wave_down_comes_before_one_along() -> None:
    down = np.cos(np.pi * (2 * np.arange(4) + 1) / 8)[:, None] * np.ones(6)
    amounts = Waves(4, 6).of(down.reshape(1, 24)).reshape(4, 6)
    assert np.unravel_index(np.abs(amounts).argmax(), (4, 6)) == (1, 0)


@pytest.mark.parametrize(("height", "width"), SIDES)
def test_sums_are_exact(height: int, width: int) -> None:
    """Float sums are those of whole numbers, whatever the order in which they are taken."""
    rng = np.random.default_rng(1)
    levels = rng.integers(-LARGEST, LARGEST + 1, (3, height * width))
    levels[0] = LARGEST
    down, along = _cosines(height).astype(int), _cosines(width).astype(int)
    whole = np.einsum("ay,nab,bx->nyx", down, levels.reshape(3, height, width), along)
    step = np.float32(0.0123)
    expected = (whole.astype(np.float64) * (np.float64(step) * 2.0**-28)).astype(np.float32).reshape(levels.shape)
    made = Waves(height, width).weights(levels, step)
    assert made.dtype == np.float32 and np.array_equal(made.view(np.uint32), (expected + 0).view(np.uint32))


def test_no_cosine_is_near_the_middle_of_two_whole_numbers() -> None:
    """Else machines whose cosines differ in the last bit would not agree."""
    for length in range(1, LONGEST + 1):
        wave, place = np.arange(length)[:, None], np.arange(length)
        size = 2.0**14 * np.sqrt(np.where(wave == 0, 1, 2) / length)
        exact = size * np.cos(np.pi * (2 * place + 1) * wave / (2 * length))
        assert np.abs(exact - _cosines(length)).max() < 0.4996

"""Biases on the grid of their accumulator."""

from __future__ import annotations

import pytest
import torch

from packlight.model.integers import settled_bias


def test_a_bias_settles_on_whole_units_of_the_accumulator() -> None:
    settled = settled_bias(torch.tensor([0.26, -0.24, 0.0]), torch.tensor([0.1, 0.5, 0.1], dtype=torch.float64))
    assert settled.tolist() == pytest.approx([0.3, 0.0, 0.0])

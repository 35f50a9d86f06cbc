"""Which weights stand over pictures."""

import torch
from torch import nn

import packlight as pl
from packlight.cosines import Waves
from packlight.model import pictures_of


def test_kernels_and_flattened_maps_are_pictures() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Dropout(),
        nn.Linear(144, 7), nn.ReLU(), nn.Linear(7, 2),
    )  # fmt: skip
    found = pictures_of(pl.load(module.eval(), torch.randn(2, 3, 28, 28)))
    assert found == {"0.weight": Waves(5, 5), "6.weight": Waves(6, 6)}


def test_a_sequence_is_a_picture_of_one_row() -> None:
    module = nn.Sequential(nn.Conv1d(3, 8, 9), nn.Flatten(), nn.Linear(8 * 24, 2))
    assert pictures_of(pl.load(module.eval(), torch.randn(2, 3, 32))) == {"0.weight": Waves(1, 9)}


def test_what_is_too_long_or_averaged_is_none() -> None:
    long = nn.Sequential(nn.Conv1d(1, 2, 99), nn.ReLU())
    assert pictures_of(pl.load(long.eval(), torch.randn(2, 1, 200))) == {}
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    assert pictures_of(pl.load(pooled.eval(), torch.randn(2, 3, 8, 8))) == {}

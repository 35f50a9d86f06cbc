"""Real data that is everywhere and trains in seconds: scikit-learn's digits, 1,797 images of 8×8 pixels."""

import functools
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import packlight as pl


@functools.cache
def _arrays() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), y[order].astype(np.int64)


def images(count: int = 32) -> np.ndarray:
    return _arrays()[0][:count]


def digits(*, channels_last: bool = False, **changes: Any) -> pl.Task:
    """1,000 samples to train on, 400 for validation, 397 for the test."""
    x, y = _arrays()
    x = x.transpose(0, 2, 3, 1) if channels_last else x
    parts = {"train": (x[:1000], y[:1000]), "calibration": x[:256], "validation": (x[1000:1400], y[1000:1400]),
             "test": (x[1400:], y[1400:])}  # fmt: skip
    return pl.Task("digits", **{**parts, **changes})


class Residual(nn.Module):
    """What int8 kernels are for: convolutions, batch norm, a shortcut, pooling, and a linear head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.pool(torch.relu(x + self.body(x))).flatten(1))


def untrained(width: int = 16) -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Residual(width), torch.zeros(2, 1, 8, 8), name="digits-net")


@functools.cache
def trained() -> pl.Model:
    """About 97 % right, after four passes over the training data."""
    return pl.finetune(untrained(), digits(), epochs=4, learning_rate=0.05)

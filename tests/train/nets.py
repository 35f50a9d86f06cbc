"""Small networks and real data for training tests."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import packlight as pl
from packlight.task import Task


def digits(augment=None) -> Task:
    """1,200 images of handwritten digits for training, 297 for validation, 300 for the test."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return Task(
        "digits", train=(x[:1200], y[:1200]), validation=(x[1200:1497], y[1200:1497]), test=(x[1497:], y[1497:]),
        augment=augment,
    )  # fmt: skip


def convolutional(dropout: float = 0.0, width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(dropout), nn.Linear(16 * width, 10),
    )  # fmt: skip


def model(dropout: float = 0.0, width: int = 16) -> pl.Model:
    return pl.load(convolutional(dropout, width), torch.zeros(2, 1, 8, 8), name="net")


def same(a: pl.Model, b: pl.Model) -> bool:
    """Whether every tensor is the same, bit for bit."""
    theirs = b.named_tensors()
    return all(torch.equal(t, theirs[n]) for n, t in a.named_tensors().items())

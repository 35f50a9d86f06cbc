"""A network that has learnt digits 0 to 5, and the task to tell 6 to 9 apart from few images."""

import functools

import numpy as np
import torch
from small_tasks import _arrays
from torch import nn

import packlight as pl
from packlight.task import Task
from packlight.train import Fit, fit
from packlight.train.parts import carried, without_softmax

OLD = 6  # classes that the network knows


def low_digits() -> Task:
    x, y = _arrays()
    x, y = x[y < OLD], y[y < OLD]
    return Task("digits 0-5", train=(x[:800], y[:800]), test=(x[800:], y[800:]))


def high_digits(a_class: int = 10) -> Task:
    """Digits 6 to 9 as classes 0 to 3: a few of each to learn from, 250 for validation, the others for the test."""
    x, y = _arrays()
    x, y = x[y >= OLD], y[y >= OLD] - OLD
    few = np.concatenate([np.flatnonzero(y == c)[:a_class] for c in range(4)])
    rest = np.setdiff1d(np.arange(len(y)), few)
    return Task("digits 6-9", train=(x[few], y[few]), validation=(x[rest[:250]], y[rest[:250]]),
                test=(x[rest[250:]], y[rest[250:]]))  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16, affine=False), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, OLD), nn.Softmax(1),
    )  # fmt: skip


@functools.cache
def knowing() -> pl.Model:
    """Trained on digits 0 to 5 in two seconds; right on 98 % of them. Do not change it."""
    model = pl.load(network(), torch.zeros(2, 1, 8, 8), name="net")
    return carried(model, fit(without_softmax(model), low_digits(), Fit(epochs=6, batch=64, learning_rate=0.05)))

"""A good file to forge, and the check that nothing in a forged one ran."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forge import PROOF
from torch import nn

from packlight.sources import from_module


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    return from_module(net, torch.randn(2, 4)).save(tmp_path_factory.mktemp("good") / "m.plm")


@pytest.fixture
def nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(PROOF).exists()

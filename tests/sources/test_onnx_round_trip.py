"""torch → Model → ONNX → Model → ONNX: the same outputs all the way, and as much can be pruned."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

import packlight as pl
from packlight import networks

IMAGE = (torch.zeros(2, 1, 28, 28),)
WORDS = (torch.randint(1, 100, (2, 16)), torch.ones(2, 16, dtype=torch.int64))
NETWORKS = {
    "lenet5": (networks.lenet5, IMAGE),
    "resnet8": (networks.resnet8, IMAGE),
    "squeezenet": (networks.squeezenet, IMAGE),
    "transformer": (lambda: networks.transformer_classifier(3, tokens=16), WORDS),
}
SLOW = {"squeezenet", "transformer"}


def size(model):
    return sum(p.numel() for p in model.parameters())


def outputs(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)})[0]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS])
def test_a_network_goes_out_and_comes_back(name, tmp_path):
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    direct = pl.fold(pl.load(make().eval(), example))
    first = pl.export(direct, tmp_path / "first.onnx")
    model = pl.load(first.path)
    assert model.notes == ()
    second = pl.export(model, tmp_path / "second.onnx")
    inputs = direct.example_inputs(seed=3, batch=5)
    with torch.no_grad():
        wanted = direct.flat(*inputs)[0].numpy()
        assert np.allclose(model.flat(*inputs)[0].numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert np.allclose(outputs(second.path, inputs), wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(1.01 * wanted, wanted, rtol=1e-4, atol=1e-5), "a scale that is 1 % off would be seen"
    assert abs(size(model) - size(direct)) <= 0.01 * size(direct)
    half, wanted_half = pl.prune(model, keep=0.5), pl.prune(direct, keep=0.5)
    assert abs(size(half) - size(wanted_half)) <= 0.01 * size(direct)

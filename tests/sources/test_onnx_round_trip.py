"""torch → Model → ONNX → Model → ONNX: the same outputs all the way, and as much can be pruned."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from architectures import ARCHITECTURES, build

import packlight as pl
from packlight import networks

IMAGE = (torch.zeros(2, 1, 28, 28),)
WORDS = (torch.randint(1, 100, (2, 16)), torch.ones(2, 16, dtype=torch.int64))
NETWORKS = {
    "lenet5": (networks.lenet5, IMAGE),
    "resnet8": (networks.resnet8, IMAGE),
    "mobilenet_v2_small": (networks.mobilenet_v2_small, IMAGE),
    "squeezenet": (networks.squeezenet, IMAGE),
    "transformer": (lambda: networks.transformer_classifier(3, tokens=16), WORDS),
}
FAST = ("all_convolutional",)  # compares with a number
# Outputs are the same, but not what can be pruned: tables that torch holds as buffers (positions, bases, centroids)
# count among an ONNX file's parameters.
WITH_TABLES = {
    "albert", "bert", "detr", "gpt", "graph_convolution", "grouped_queries", "levit", "perceiver",
    "spatial_transformer", "swin", "t5", "torch_encoder", "vector_quantised", "whisper_encoder", "yolov8",
}  # fmt: skip
PRUNED_OTHERWISE = {"fasternet", "mobilevit"}  # within 3 % of the direct path
UNPRUNED = {"segnet", "temporal_shift"}  # flat indices of pooling, and index_put, freeze all
SLOW = {"mobilenet_v2_small", "squeezenet", "transformer"}


def size(model):
    return sum(p.numel() for p in model.parameters())


def outputs(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)})[0]


def stirred(module):
    """As if trained: exporters leave out what is zero, such as biases of batch norms that saw nothing."""
    with torch.no_grad():
        for part in module.modules():
            if getattr(part, "running_mean", None) is not None:
                part.running_mean.uniform_(-0.2, 0.2)
                part.running_var.uniform_(0.5, 1.5)
        for value in module.parameters():
            if value.dim() == 1 and not value.any():
                value.uniform_(-0.1, 0.1)
    return module.eval()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS])
def test_a_network_goes_out_and_comes_back(name, tmp_path):
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    there_and_back(pl.fold(pl.load(stirred(make()), example)), tmp_path)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.zoo) for n in ARCHITECTURES])
def test_an_architecture_goes_out_and_comes_back(name, tmp_path):
    module, inputs = build(name)
    torch.manual_seed(1)
    there_and_back(pl.fold(pl.load(stirred(module), inputs, name=name)), tmp_path, name)


def there_and_back(direct, folder, name=""):
    first = pl.export(direct, folder / "first.onnx")
    model = pl.load(first.path)
    assert model.notes == ()
    second = pl.export(model, folder / "second.onnx")
    inputs = direct.example_inputs(seed=3, batch=5)
    with torch.no_grad():
        wanted = direct.flat(*inputs)[0].numpy()
        assert np.allclose(model.flat(*inputs)[0].numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert np.allclose(outputs(second.path, inputs), wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(1.01 * wanted, wanted, rtol=1e-4, atol=1e-5), "a scale that is 1 % off would be seen"
    if name in UNPRUNED:
        with pytest.raises(pl.PacklightError, match="can be pruned"):
            pl.prune(model, keep=0.5)
        return
    half = pl.prune(model, keep=0.5)
    if name in WITH_TABLES:
        assert size(half) <= 0.6 * size(model)
        return
    assert abs(size(model) - size(direct)) <= 0.01 * size(direct)
    most = 0.03 if name in PRUNED_OTHERWISE else 0.01
    assert abs(size(half) - size(pl.prune(direct, keep=0.5))) <= most * size(direct)

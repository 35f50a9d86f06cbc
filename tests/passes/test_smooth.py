"""Moving large channels from activations to weights."""

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.model.operators import packet
from packlight.passes.quantize import Quantization, Smoothing, quantize, smooth
from packlight.passes.quantize.smooth import smoothing_scales
from packlight.targets import get
from packlight.testing import PassContract
from packlight.testing.examples import random_task

NUMERICS = get("onnxruntime").numerics


class Block(nn.Module):
    """A layer norm with one channel fifty times as large as the rest, read by two linear layers, and by a sum."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.norm, self.residual = nn.LayerNorm(32), residual
        self.left, self.right = nn.Linear(32, 32), nn.Linear(32, 32)
        with torch.no_grad():
            self.norm.weight[3] = 50

    def forward(self, x):
        x = self.norm(x)
        y = self.left(x) + self.right(x)
        return x + y if self.residual else y


def made(residual: bool) -> tuple[pl.Model, pl.Task]:
    torch.manual_seed(0)
    model = pl.load(Block(residual).eval(), torch.randn(2, 5, 32))
    data = np.random.default_rng(0).normal(size=(64, 5, 32)).astype(np.float32)
    return model, pl.Task(calibration=data)


def test_scales_on_paper():
    scales = smoothing_scales(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 1.0]), 0.5)
    # √4 and √1, divided by their geometric mean √2
    assert torch.allclose(scales, torch.tensor([2.0, 1.0]) / 2**0.5)


def test_channels_that_are_never_used_keep_their_scale():
    scales = smoothing_scales(torch.tensor([0.0, 4.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]), 0.5)
    assert torch.equal(scales, torch.ones(3))


@pytest.mark.parametrize("residual", [False, True], ids=["norm", "norm_with_other_readers"])
def test_the_network_computes_the_same_and_quantizes_better(residual):
    model, task = made(residual)
    smoothed = smooth(model, task, Smoothing(0.8))
    x = torch.randn(16, 5, 32, generator=torch.Generator().manual_seed(5))
    wanted = model(x).detach()

    def off(network):
        return float((network(x).detach() - wanted).norm() / wanted.norm())

    assert off(smoothed) < 1e-6
    plain, better = (off(quantize(m, task, NUMERICS, Quantization("minmax"))) for m in (model, smoothed))
    assert better < 0.6 * plain


def test_a_norm_that_nothing_else_reads_takes_the_scales_in():
    model, task = made(False)
    smoothed = smooth(model, task)
    assert len(smoothed.nodes) == len(model.nodes)
    assert smoothed.named_tensors()["norm.weight"][3] < 0.5 * model.named_tensors()["norm.weight"][3]


def test_elsewhere_one_multiplication_serves_all_layers_unless_only_free_ones_are_wanted():
    model, task = made(True)
    assert [packet(n) for n in smooth(model, task).nodes].count("mul") == 1
    assert smooth(model, task, Smoothing(free=True)).lineage == model.lineage


def test_layers_named_to_be_left_alone_are():
    model, task = made(False)
    smoothed = smooth(model, task, Smoothing(exclude=("left",)))
    assert torch.equal(smoothed.named_tensors()["left.weight"], model.named_tensors()["left.weight"])
    assert not torch.equal(smoothed.named_tensors()["right.weight"], model.named_tensors()["right.weight"])
    assert [packet(n) for n in smoothed.nodes].count("mul") == 1, "the layer left alone reads the norm as it was"


def test_a_quantized_model_and_bad_options_are_refused():
    model, task = made(False)
    with pytest.raises(PacklightError, match="quantized already"):
        smooth(quantize(model, task, NUMERICS), task)
    with pytest.raises(PacklightError, match=r"strength from 0 to 1, got 1\.5"):
        Smoothing(1.5)
    with pytest.raises(PacklightError, match="empty"):
        smooth(model, pl.Task(calibration=np.zeros((0, 5, 32), np.float32)))


class TestSmooth(PassContract):
    def models(self):
        return [made(False)[0], made(True)[0]]

    def apply(self, model):
        return smooth(model, random_task(model))

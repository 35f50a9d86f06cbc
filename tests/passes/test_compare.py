"""Where a quantized network departs from the float one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.model.operators import packet
from packlight.passes.quantize import Bits, Quantization, layer_errors, quantize
from packlight.targets import get
from packlight.task import Task

NUMERICS = get("onnxruntime").numerics


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second, self.third, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Net(), torch.zeros(2, 3, 8, 8))


IMAGES = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
TASK = Task(calibration=IMAGES)
BATCHES = [(torch.from_numpy(IMAGES[:32]),), (torch.from_numpy(IMAGES[32:]),)]


def worst(net: pl.Model, options: Quantization):
    return layer_errors(net, quantize(net, TASK, NUMERICS, options), BATCHES)


def test_eight_bits_do_no_harm_and_every_layer_is_there(net: pl.Model) -> None:
    found = worst(net, Quantization())
    assert {e.layer for e in found} == {"first.0", "second", "third", "head"}
    assert all(e.own > 30 and e.cause == "" for e in found)
    assert [e.own for e in found] == sorted(e.own for e in found)


def test_few_bits_of_one_layer_are_found_there_and_later_ones_suffer_from_it(net: pl.Model) -> None:
    first, *rest = found = worst(net, Quantization(bits=Bits(layers={"second": 2})))
    assert (first.layer, first.cause) == ("second", "few steps for its weights") and first.weights < 20 < first.inputs
    third = next(e for e in found if e.layer == "third")
    assert third.own > 30 > third.whole and third.cause == "what came before"
    assert all(e.own > 30 for e in rest)


def test_a_range_that_clips_is_named(net: pl.Model) -> None:
    small = quantize(net, TASK, NUMERICS)
    pairs = [n for n in small.nodes if packet(n).endswith("quantize_per_tensor")]
    third = next(n for n in small.nodes if packet(n) == "conv2d" and small.layer(n) == "third")
    read = third.args[0].args[1:3]  # type: ignore[union-attr]
    for node in pairs:
        if node.args[1:3] == read:
            node.update_arg(1, node.args[1] / 4)  # type: ignore[operator]
    small.tidy()
    first = layer_errors(net, small, BATCHES)[0]
    assert first.layer == "third" and first.clipped > 0.02 and "clipped" in first.cause and "minmax" in first.remedy


def test_the_ratio_is_that_of_the_powers(net: pl.Model) -> None:
    small = quantize(net, TASK, NUMERICS, Quantization(bits=Bits(weights=3, ends=3)))
    found = {e.layer: e for e in layer_errors(net, small, BATCHES)}
    x = BATCHES[0][0], BATCHES[1][0]
    y, rough = (torch.cat([m.flat(part)[0].detach() for part in x]).double() for m in (net, small))
    ratio = 10 * torch.log10(y.square().sum() / (rough - y).square().sum())
    assert found["head"].whole == pytest.approx(float(ratio), abs=0.05)


def test_ranges_at_run_time_and_weights_alone_are_taken(net: pl.Model) -> None:
    dynamic = worst(net, Quantization(mode="dynamic"))
    assert [e.layer for e in dynamic] == ["head"] and dynamic[0].inputs is not None and dynamic[0].own > 30
    assert all(e.inputs is None for e in worst(net, Quantization(bits=Bits(activations=None))))


def test_networks_that_do_not_belong_together_are_refused(net: pl.Model) -> None:
    other = pl.load(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 4))
    with pytest.raises(PacklightError, match="was not made of"):
        layer_errors(other, quantize(net, TASK, NUMERICS), BATCHES)
    with pytest.raises(PacklightError, match="no layer with quantized weights"):
        layer_errors(net, net, BATCHES)

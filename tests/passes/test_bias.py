"""Bias correction: means as they were, biases that integers hold, and outputs that are nearer."""

from __future__ import annotations

import pytest
import torch
from small_tasks import digits, trained
from torch import Tensor, nn

import packlight as pl
from packlight.model.integers import bias_unit
from packlight.model.operators import load_quantized_operators, packet
from packlight.passes.fold import fold
from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.passes.quantize.bias import correct_biases
from packlight.passes.quantize.blocks import Walker
from packlight.targets import get
from packlight.task import Task

load_quantized_operators()
NUMERICS = get("onnxruntime").numerics
FEW = Bits(weights=3, ends=3)


class Net(nn.Module):
    """A layer without a bias, a depthwise one with ReLU6, a shortcut with a layer of its own, a head on three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.apart, self.body, self.side = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.apart(self.first(x).relu()))
        x = (self.body(x) + self.side(x)).relu()
        return self.head(x.flatten(2).transpose(1, 2)).mean(1)


@pytest.fixture(scope="module")
def net() -> pl.Model:
    torch.manual_seed(0)
    return pl.finetune(pl.load(Net(), torch.zeros(2, 1, 8, 8)), digits(), epochs=2, learning_rate=0.05)


def made(net: pl.Model, correct: bool, **how: object) -> pl.Model:
    given = {"bits": FEW, "correct_bias": correct} | how
    return quantize(net, digits(), NUMERICS, Quantization(**given))  # type: ignore[arg-type]


def error_of_means(small: pl.Model, net: pl.Model, x: Tensor, names: list[str]) -> dict[str, float]:
    """Layer → the mean over channels of how far its values' mean over the data is from that in the float network."""
    whole, found = fold(net), {}
    now, then = Walker(small, [(x,)]), Walker(whole, [(x,)])
    for name in names:
        node, twin = small.layers()[name], whole.layers()[name]
        now.advance(node)
        then.advance(twin)
        (a,), (b,) = now.values(node), then.values(twin)
        axes = [d for d in range(a.dim()) if d != (1 if a.dim() == 4 else a.dim() - 1)]
        found[name] = float((a - b).mean(axes).abs().mean())
    return found


HANDED_ON = ["relu", "relu6", "relu_1", "head"]


def test_means_of_what_layers_hand_on_are_as_they_were(net: pl.Model) -> None:
    x = torch.from_numpy(digits().calibration.inputs[0])
    plain, better = (error_of_means(made(net, c), net, x, HANDED_ON) for c in (False, True))
    assert set(better) == set(HANDED_ON)
    for name in HANDED_ON:
        assert better[name] < 0.2 * plain[name], name


def test_they_are_nearer_on_other_data_too_and_so_are_the_outputs(net: pl.Model) -> None:
    x = torch.from_numpy(digits().test.inputs[0])
    small, corrected = made(net, False), made(net, True)
    plain, better = (error_of_means(m, net, x, HANDED_ON) for m in (small, corrected))
    assert all(better[n] < 0.6 * plain[n] for n in HANDED_ON)
    wanted = net(x).detach()
    off, less = (float((m(x).detach() - wanted).square().mean()) for m in (small, corrected))
    assert less < 0.8 * off


def test_a_trained_network_is_not_harmed() -> None:
    task = digits()
    before = pl.measure(trained(), task)["quality"].value
    for bits in (8, 3):
        plain, better = (pl.measure(made(trained(), c, bits=Bits(weights=bits)), task)["quality"].value
                         for c in (False, True))  # fmt: skip
        assert better >= plain - 0.51 and better > before - 6, "two of 397 images"


def test_every_layer_has_a_bias_in_whole_units_of_its_accumulator(net: pl.Model) -> None:
    small = made(net, True)
    layers = [n for n in small.nodes if packet(n) in ("conv2d", "linear")]
    assert len(layers) == 5 and small.named_tensors()["first.bias"].shape == (8,)
    for node in layers:
        unit = bias_unit(small, node)
        assert unit is not None
        steps = small.tensor(node.args[2]).detach().double() / unit  # type: ignore[arg-type]
        assert torch.allclose(steps, steps.round(), atol=0.01) and steps.abs().max() < 2**31


def test_a_bias_stays_within_its_integers(net: pl.Model) -> None:
    small = made(net, False)
    node, whole = small.layers()["body"], fold(net)
    scale = small.named_tensors()["body.weight_scale"]
    small.set_tensor("body.weight_scale", scale * 1e-12)  # its weights are as good as gone: all is asked of the bias
    correct_biases(small, whole, [(torch.from_numpy(digits().calibration.inputs[0]),)])
    unit = bias_unit(small, node)
    assert unit is not None and (small.named_tensors()["body.bias"].double() / unit).abs().max() <= 2**30 * 1.001


def test_excluded_layers_keep_their_biases(net: pl.Model) -> None:
    small = made(net, True, exclude=("body", "first"))
    before, after = fold(net).named_tensors(), small.named_tensors()
    assert torch.equal(after["body.bias"], before["body.bias"]) and "first.bias" not in after
    assert not torch.equal(after["side.bias"], before["side.bias"])


@pytest.mark.parametrize("how", [{"mode": "dynamic"}, {"rounding": "gptq"}, {"equalize": True},
                                 {"bits": Bits(weights=3, activations=None)}], ids=str)  # fmt: skip
def test_it_goes_with_the_other_options(how: dict[str, object]) -> None:
    x = torch.from_numpy(digits().calibration.inputs[0])
    plain, better = (error_of_means(made(trained(), c, **how), trained(), x, ["head"])["head"] for c in (False, True))
    assert better < 0.2 * plain


def test_calibration_data_is_needed_even_where_ranges_are_not() -> None:
    with pytest.raises(pl.PacklightError, match="calibration"):
        quantize(trained(), Task(), NUMERICS, Quantization(mode="dynamic", correct_bias=True))

"""Cross-layer equalisation: the same function, even weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_tasks import digits, trained
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.operators import packet
from packlight.model.shapes import propagate
from packlight.passes.fold import fold
from packlight.passes.quantize import Bits, Quantization, equalize, layer_errors, quantize
from packlight.passes.quantize.equalize import pairs
from packlight.targets import get
from packlight.task import Task
from packlight.testing import PassContract

NUMERICS = get("onnxruntime").numerics
ROOT = Path(__file__).parents[2]
RESNET = ROOT / "packlight/data/resnet20_fashion_mnist.plm"
MOBILENET = ROOT / "benchmarks/networks/mobilenet_v2_small.plm"


class Chain(nn.Module):
    """Convolutions, one of them depthwise, one grouped, one transposed, with batch norm, pooling and a head behind a
    flatten; channels of the first are a hundred times apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.apart = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LeakyReLU(0.1))
        self.grouped, self.act = nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.PReLU(12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=3)
        self.hidden, self.head = nn.Linear(6 * 16, 5), nn.Linear(5, 4)
        with torch.no_grad():
            self.first[0].weight.mul_(torch.logspace(-1, 1, 8).reshape(-1, 1, 1, 1))
            self.first[1].running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.act(self.grouped(self.apart(self.first(x)))))
        x = nn.functional.max_pool2d(x.relu(), 4).flatten(1)
        return self.head(nn.functional.dropout(self.hidden(x).relu(), 0.5, self.training))


class Apart(nn.Module):
    """A value that two layers read, a ReLU6, a shared weight and a sum: nothing here can be scaled but the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.clipped, self.twice, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = nn.functional.relu6(self.clipped(self.left(x) + self.right(x)))
        return self.head(self.twice(self.twice(x).relu()).mean((2, 3)))


def made(module: nn.Module) -> pl.Model:
    return pl.load(module.eval(), torch.zeros(2, 3, 8, 8))


@pytest.fixture(scope="module")
def chain() -> pl.Model:
    torch.manual_seed(0)
    return made(Chain())


def values(model: pl.Model, name: str) -> Tensor:
    return model.named_tensors()[name].detach()


def off(got: pl.Model, wanted: pl.Model, *inputs: Tensor) -> float:
    """Root mean square of the difference of the outputs over that of the outputs."""
    a, b = got.flat(*inputs)[0].detach(), wanted.flat(*inputs)[0].detach()
    return float((a - b).norm() / b.norm())


def test_every_layer_of_a_chain_is_found_and_the_function_stays(chain: pl.Model) -> None:
    names = [(chain.layer(p.first), chain.layer(p.second), p.features) for p in pairs(propagate(fold(chain)))]
    assert names == [("first.0", "apart.0", 1), ("apart.0", "grouped", 1), ("grouped", "up", 1), ("up", "hidden", 16),
                     ("hidden", "head", 1)]  # fmt: skip
    even, x = equalize(chain), torch.randn(16, 3, 8, 8)
    assert off(even, chain, x) < 1e-6 and str(even.lineage[-1]) == "equalize(pairs=5)"
    wrong = even.copy()
    wrong.set_tensor("apart.0.weight", values(even, "apart.0.weight") * torch.tensor(1.01), trainable=True)
    assert off(wrong, chain, x) > 1e-4, "a scale that is wrong by 1 % is seen"


def test_channels_have_one_ratio_on_both_sides_when_the_scales_stand_still(chain: pl.Model) -> None:
    def ratios(model: pl.Model) -> dict[str, Tensor]:
        largest = {n: values(model, f"{n}.weight").abs() for n in ("first.0", "apart.0", "grouped", "hidden", "head")}
        depthwise = largest["apart.0"].amax((1, 2, 3))
        read = largest["grouped"].reshape(2, 6, 4, 9).amax((1, 3)).flatten()
        return {
            "first": largest["first.0"].amax((1, 2, 3)) / depthwise, "apart": depthwise / read,
            "hidden": largest["hidden"].amax(1) / largest["head"].amax(0),
        }  # fmt: skip

    before, after = ratios(fold(chain)), ratios(equalize(chain))
    for name, ratio in after.items():
        assert ratio.max() / ratio.min() < 1.01 < 1.1 < before[name].max() / before[name].min()
    assert before["first"].max() / before["first"].min() > 50


@pytest.mark.parametrize("bits", [8, 4])
def test_uneven_channels_quantize_better(bits: int) -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 4, 1, bias=False)
    with torch.no_grad():  # what the one makes larger the other makes smaller
        first.weight.mul_(torch.logspace(-1, 1, 8).reshape(-1, 1, 1, 1))
        second.weight.mul_(torch.logspace(1, -1, 8).reshape(1, -1, 1, 1))
    model = made(nn.Sequential(first, nn.ReLU(), second))
    task = Task(calibration=np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32))
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    how = {"bits": Bits(weights=bits, ends=bits)}
    plain, even = (quantize(model, task, NUMERICS, Quantization(equalize=e, **how)) for e in (False, True))
    assert off(even, model, x) < 0.4 * off(plain, model, x)


def test_what_else_reads_a_value_and_what_clips_it_keeps_it_as_it_is() -> None:
    torch.manual_seed(0)
    model = made(Apart())
    same = equalize(model)
    assert same.notes[-1:] == () and same.lineage == model.lineage
    assert all(torch.equal(t, values(model, n)) for n, t in same.named_tensors().items())
    assert off(same, model, torch.randn(4, 3, 8, 8)) == 0


def test_layers_named_to_be_left_alone_are(chain: pl.Model) -> None:
    even = equalize(chain, "apart*")
    for name in ("apart.0.weight", "apart.0.bias"):
        assert torch.equal(values(even, name), values(chain, name))
    assert torch.equal(values(even, "first.0.weight"), values(fold(chain), "first.0.weight"))
    assert not torch.equal(values(even, "head.weight"), values(chain, "head.weight"))
    assert even.lineage[-1].options == {"exclude": ["apart*"], "pairs": 3}
    with pytest.raises(PacklightError, match="no layer matches 'aprt'; did you mean apart"):
        equalize(chain, "aprt")


def test_a_quantized_model_is_refused() -> None:
    with pytest.raises(PacklightError, match="quantized already; equalize its float version"):
        equalize(pl.quantize(trained(), digits()))


def test_a_resnet_computes_the_same_and_its_ranges_are_closer() -> None:
    model = fold(Model.load(RESNET))
    even, x = equalize(model), torch.rand(4, 1, 28, 28)
    assert off(even, model, x) < 1e-6 and even.lineage[-1].options["pairs"] == 9
    for pair in pairs(propagate(model)):
        name = str(pair.first.args[1].target)  # type: ignore[union-attr]
        read = str(pair.second.args[1].target)  # type: ignore[union-attr]

        def spread(of: pl.Model, name: str = name, read: str = read) -> float:
            ratio = values(of, name).abs().amax((1, 2, 3)) / values(of, read).abs().amax((0, 2, 3))
            return float(ratio.log().std())

        assert spread(even) < 0.01 < spread(model)


def test_relu6_leaves_a_mobilenet_alone_and_says_so() -> None:
    model = fold(Model.load(MOBILENET))
    same = equalize(model)
    assert all(torch.equal(t, values(model, n)) for n, t in same.named_tensors().items())
    assert same.notes[-1].startswith("not equalized, because a clip follows: features.1.body.0.0, ")
    assert same.lineage[-1].options["pairs"] == 0


def test_layers_are_compared_with_the_equalized_float_network(chain: pl.Model) -> None:
    data = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    small = pl.quantize(chain, Task(calibration=data), equalize=True)
    assert "conv_transpose2d" in {packet(n) for n in small.nodes}
    assert min(e.own for e in layer_errors(chain, small, [(torch.from_numpy(data),)])) > 30


class TestEqualize(PassContract):
    def models(self) -> list[pl.Model]:
        torch.manual_seed(0)
        return [made(Chain()), made(Apart())]

    def apply(self, model: pl.Model) -> pl.Model:
        return equalize(model)

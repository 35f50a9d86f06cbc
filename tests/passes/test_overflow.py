"""Integer kernels that leave the integers they sum in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import packlight as pl
from packlight.model.integers import freeze
from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.passes.quantize.overflow import HIGHEST, Saturating, bounds, sums
from packlight.targets import get
from packlight.task import Task

NUMERICS = get("onnxruntime").numerics


def test_bounds_by_hand():
    """255 · (127 + 127) leaves int16; 255 · (63 + 63) and −255 · (64 + 64) do not."""
    assert bounds(torch.tensor([[[127, 127, -3]]]), 0, 255) == (64770, 255 * 254)
    assert bounds(torch.tensor([[[63, 63]]]), 0, 255)[0] == 32130 <= HIGHEST
    assert bounds(torch.tensor([[[-64, -64]]]), 0, 255)[0] <= HIGHEST  # −32,640
    assert bounds(torch.tensor([[[-64, -65]]]), 0, 255)[0] > HIGHEST - 500
    assert bounds(torch.tensor([[[127, -127]]]), 0, 255)[0] == 255 * 127
    assert bounds(torch.tensor([[[127, 1, 127, 1]]]), 0, 255)[0] <= HIGHEST  # neighbours are what is summed
    assert bounds(torch.full((4, 1, 9), 127), 0, 255)[0] == 0  # depthwise


class Loud(nn.Module):
    """A convolution and a head whose weights all pull the same way."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=groups)
        self.line = nn.Conv1d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            for layer in (self.conv, self.line, self.head):
                layer.weight.abs_().add_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.line(torch.relu(self.conv(x)).flatten(2)).mean(2))


IMAGES = np.random.default_rng(0).random((32, 2, 6, 6)).astype(np.float32)
BATCH = (torch.from_numpy(IMAGES),)


@pytest.fixture(scope="module", params=(1, 2))
def loud(request) -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Loud(request.param), torch.zeros(2, 2, 6, 6))


def small(model: pl.Model, bits: Bits | None = None) -> pl.Model:
    return quantize(model, Task(calibration=IMAGES), NUMERICS, Quantization(bits=bits or Bits()))


def by_hand(weight: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums of neighbours [rows, outputs, pairs]. weight [outputs, terms], columns [rows, terms]."""
    products = columns[:, None, :].astype(np.int64) * weight[None].astype(np.int64)
    if products.shape[-1] % 2:
        products = np.pad(products, ((0, 0), (0, 0), (0, 1)))
    return products.reshape(*products.shape[:2], -1, 2).sum(-1)


def test_what_is_seen_is_what_the_integers_give(loud: pl.Model):
    model = small(loud)
    found = {s.layer: s for s in sums(model, [BATCH])}
    assert list(found) == ["conv", "line", "head"]
    frozen = freeze(model)
    conv = frozen.layers()["conv"]
    weight = frozen.tensor(conv.args[1].args[0]).numpy()
    q, scale, zero = conv.args[0].args[0], *conv.args[0].args[1:3]
    x = np.clip(np.rint(IMAGES / scale) + zero, 0, 255).astype(np.int64)
    assert q.op == "call_function"
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=zero)
    each, seen, out, of = 2 // (2 // weight.shape[1]), 0, 0, 0
    for o in range(4):
        start = 0 if weight.shape[1] == 2 else o // 2
        part = x[:, start : start + each]
        columns = np.stack([
            part[:, :, i : i + 3, j : j + 3].transpose(0, 2, 3, 1).reshape(len(x), -1)
            for i in range(0, 6, 2) for j in range(0, 6, 2)
        ], 1)  # fmt: skip
        pairs = by_hand(weight[o : o + 1].transpose(0, 2, 3, 1).reshape(1, -1), columns.reshape(-1, columns.shape[-1]))
        seen, out, of = max(seen, abs(pairs).max()), out + int((abs(pairs) > HIGHEST).sum()), of + pairs.size
    assert found["conv"].seen == seen > HIGHEST and found["conv"].saturated == pytest.approx(out / of)
    assert not found["conv"].safe and found["conv"].seen <= found["conv"].pair and found["conv"].fits


def test_seven_bits_are_safe_and_the_notes_say_so(loud: pl.Model):
    model = small(loud, Bits(reduced=True))
    assert all(s.safe and s.seen is None and s.saturated == 0 for s in sums(model, [BATCH]))
    assert any("7 bits" in note for note in model.notes)
    wanted = model.flat(*BATCH)[0]
    assert torch.equal(Saturating(model).run(*BATCH)[0], wanted)


def test_without_vnni_eight_bits_compute_something_else(loud: pl.Model):
    model = small(loud)
    wanted, got = (y.detach() for y in (model.flat(*BATCH)[0], Saturating(model).run(*BATCH)[0]))
    assert float((got - wanted).norm() / wanted.norm()) > 0.01
    assert (got < wanted).float().mean() > 0.9  # all weights are positive: what saturates is lost


def test_the_head_saturates_term_by_term():
    """One kernel, by hand: the emulated result is the clipped sums' own."""
    torch.manual_seed(1)
    linear = nn.Linear(5, 2)
    with torch.no_grad():
        linear.weight.abs_()
    data = np.random.default_rng(1).random((32, 5)).astype(np.float32)
    model = quantize(pl.load(linear, torch.zeros(2, 5)), Task(calibration=data), NUMERICS)
    frozen = freeze(model)
    node = next(n for n in frozen.nodes if "linear" in str(n.target))
    scale, zero = node.args[0].args[1:3]
    weight, unit = frozen.tensor(node.args[1].args[0]).numpy(), frozen.tensor(node.args[1].args[1]).numpy() * scale
    q = np.clip(np.rint(data / np.float32(scale)) + zero, 0, 255)
    pairs = by_hand(weight, q)
    lost = (np.clip(pairs, -(2**15), HIGHEST) - pairs).sum(-1) * unit
    assert (lost < 0).any()
    x = torch.from_numpy(data)
    made = Saturating(model).run(x)[0] - model.flat(x)[0]
    np.testing.assert_allclose(made.detach().numpy(), lost, atol=1e-5)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)
        self.two, self.short = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return (self.two(self.one(x).relu()) + self.short(x)).mean((2, 3))


def test_a_shortcut_reads_what_was_made_long_before():
    torch.manual_seed(0)
    found = sums(small(pl.load(Branch(), torch.zeros(2, 2, 6, 6))), [BATCH])
    assert {s.layer for s in found} == {"stem", "one", "two", "short"}
    short = next(s for s in found if s.layer == "short")
    assert short.safe or (short.seen is not None and 0 < short.seen <= short.pair + 1)

"""Weights alone as integers, in blocks along the input axis: grids, the pass, training and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.parity import difference
from packlight.model.integers import freeze, grid
from packlight.model.numerics import Format
from packlight.model.operators import kind, packet
from packlight.passes.quantize import Bits, Quantization, Scales, quantize
from packlight.passes.quantize.groups import block_grid, block_of
from packlight.passes.quantize.ranges import fake_quantize
from packlight.targets import get
from packlight.task import ArrayData, Task
from packlight.train import LearnScales
from packlight.train.taps import Tapped

NUMERICS = get("onnxruntime").numerics
LENET = Path(__file__).parents[2] / "benchmarks/networks/lenet300.plm"
FOUR = Quantization(mode="weights", bits=Bits(weights=4, ends=4))


@pytest.fixture(scope="module")
def lenet() -> pl.Model:
    return pl.load(LENET)


@pytest.fixture(scope="module")
def inputs(lenet: pl.Model) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(64, *(s for s in lenet.inputs[0].shape if isinstance(s, int)))


class Mlp(nn.Module):
    """Tokens [n, 5, 64] to four scores each, with a convolution before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(5, 5, 1)
        self.wide, self.narrow, self.head = nn.Linear(64, 96), nn.Linear(96, 64, bias=False), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.narrow(torch.relu(self.wide(self.conv(x))))))


@pytest.fixture(scope="module")
def mlp() -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Mlp(), torch.zeros(2, 5, 64))


@pytest.fixture(scope="module")
def task(mlp: pl.Model) -> Task:
    """Scores of a network with other weights; inputs have few directions, as those inside networks do."""
    random = np.random.default_rng(0)
    x = (random.standard_normal((256, 5, 12)) @ random.standard_normal((12, 64))).astype(np.float32)
    with torch.no_grad():
        y = mlp(torch.from_numpy(x)).numpy()
    return Task(metric="mse", loss="mse", calibration=ArrayData((x,)), train=(x, y))


def error(model: pl.Model, other: pl.Model, x: Tensor) -> float:
    with torch.no_grad():
        return difference(other.flat(x)[0].numpy(), model.flat(x)[0].numpy()).error


def test_a_block_has_the_scale_of_its_own_largest_weight() -> None:
    rows = torch.tensor([[0.7, -0.1, 0.2, 0.0], [7.0, 1.0, -2.0, 3.0]])
    scale, zero = block_grid(rows, Format(4, group=4), search=False)
    assert scale.tolist() == pytest.approx([0.1, 1.0]) and zero.tolist() == [0, 0]


def test_a_zero_point_spends_all_steps_on_the_values_that_there_are() -> None:
    rows = torch.tensor([[0.0, 1.0, 2.0, 15.0], [-15.0, -3.0, -1.0, 0.0]])
    scale, zero = block_grid(rows, Format(4, symmetric=False, group=4), search=False)
    assert scale.tolist() == pytest.approx([1.0, 1.0]) and zero.tolist() == [-8, 7]
    form = Format(4, symmetric=False)
    torch.testing.assert_close(fake_quantize(rows, scale[:, None], zero[:, None], form), rows)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_searched_grid_is_never_worse_than_the_whole_range(symmetric: bool) -> None:
    torch.manual_seed(0)
    rows, form = torch.randn(200, 32) ** 3, Format(3, symmetric=symmetric)

    def off(search: bool) -> Tensor:
        scale, zero = block_grid(rows, form, search)
        return (fake_quantize(rows, scale[:, None], zero[:, None], form) - rows).square().sum(1)

    assert (off(True) <= off(False) * (1 + 1e-5)).all() and off(True).sum() < 0.97 * off(False).sum()


def test_a_layer_gets_the_largest_block_that_divides_its_inputs() -> None:
    wanted = {(768, 128): 128, (784, 128): 16, (300, 32): 300, (100, None): 100}
    assert {(n, g): block_of(n, g) for n, g in wanted} == wanted


def test_weights_alone_need_no_data_and_leave_activations_in_float(lenet: pl.Model, inputs: Tensor) -> None:
    small = pl.quantize(lenet, mode="weights", weights=4, ends=4)
    assert {packet(n) for n in small.nodes if kind(n) == "quantize"} == {
        "quantize_per_channel_group", "dequantize_per_channel_group",
    }  # fmt: skip
    assert any("blocks of 16" in note for note in small.notes) and any("blocks of 300" in note for note in small.notes)
    assert pl.statistics(small).weight_bytes < 0.14 * pl.statistics(lenet).weight_bytes
    assert 0.01 < error(lenet, small, inputs) < 0.2


def test_every_integer_is_in_range_and_every_weight_next_to_its_own(lenet: pl.Model) -> None:
    small = freeze(quantize(lenet, Task(), NUMERICS, FOUR))
    before = lenet.named_tensors()
    found = [n for n in small.nodes if packet(n) == "dequantize_per_channel_group"]
    assert len(found) == 3
    for node in found:
        scale, zero, low, high = grid(small, node)
        q = small.tensor(node.args[0])  # type: ignore[arg-type]
        assert q.dtype == torch.int8 and int(q.min()) >= -8 == low and int(q.max()) <= 7 == high
        weight = before[str(node.args[0].target).removesuffix("_integer")].detach()  # type: ignore[union-attr]
        inside = (q > low) & (q < high)
        assert ((scale * (q - zero) - weight).abs() <= scale * 0.5001)[inside].all()


def test_smaller_blocks_and_zero_points_have_smaller_errors(lenet: pl.Model) -> None:
    weight = lenet.named_tensors()["first.weight"].detach()

    def off(group: int | None, symmetric: bool = True) -> float:
        form = Format(4, symmetric=symmetric)
        rows = weight.reshape(-1, block_of(weight.shape[1], group))
        scale, zero = block_grid(rows, form)
        return float((fake_quantize(rows, scale[:, None], zero[:, None], form) - rows).square().sum())

    assert off(16) < 0.7 * off(None) and off(16, symmetric=False) < off(16)


def test_convolutions_have_a_scale_a_channel(mlp: pl.Model) -> None:
    small = quantize(mlp, Task(), NUMERICS, replace(FOUR, scales=Scales(32, symmetric=False)))
    (conv,) = (n for n in small.nodes if packet(n) == "dequantize_per_channel")
    assert small.layer(conv) == "conv.weight.dequantize" and not grid(small, conv).zero.any()


def test_it_is_saved_frozen_and_loaded_the_same(mlp: pl.Model, tmp_path: Path) -> None:
    small = quantize(mlp, Task(), NUMERICS, replace(FOUR, scales=Scales(16, symmetric=False)))
    x = mlp.example_inputs(batch=3)[0]
    wanted = small(x)
    assert torch.equal(pl.load(small.save(tmp_path / "small.plm"))(x), wanted)
    whole = freeze(small)
    assert torch.equal(pl.load(whole.save(tmp_path / "whole.plm"))(x), wanted)
    assert not any(t.is_floating_point() and t.dim() > 1 for t in whole.named_tensors().values())


def test_training_runs_through_the_blocks_and_gains(mlp: pl.Model, task: Task) -> None:
    small = quantize(mlp, task, NUMERICS, replace(FOUR, bits=Bits(weights=2, ends=2), scales=Scales(16)))
    x = torch.from_numpy(task.data("calibration").take(64).inputs[0])
    assert torch.equal(Tapped(small)(x)[0][0], small.flat(x)[0])
    how = pl.Fit(epochs=3, batch=32, learning_rate=0.02)
    made = pl.finetune(small, task, options=how, hooks=[LearnScales()])
    assert [n.target for n in made.nodes if kind(n) == "quantize"] == [
        n.target for n in small.nodes if kind(n) == "quantize"
    ]
    moved = [n for n, t in small.named_tensors().items() if not torch.equal(t, made.named_tensors()[n])]
    assert {"wide.weight", "wide.weight_scale"} <= set(moved)
    assert error(mlp, made, x) < 0.8 * error(mlp, small, x)


@pytest.mark.parametrize("how", ["gptq", "adaround"])
def test_rounding_by_data_keeps_to_the_blocks_and_beats_the_nearest(mlp: pl.Model, task: Task, how: str) -> None:
    options = replace(FOUR, bits=Bits(weights=3, ends=3), scales=Scales(16, symmetric=how == "adaround"))
    nearest, better = (quantize(mlp, task, NUMERICS, replace(options, rounding=r)) for r in ("nearest", how))
    x = torch.from_numpy(task.data("calibration").take(128).inputs[0])
    assert error(mlp, better, x) < 0.8 * error(mlp, nearest, x)
    assert torch.equal(better.named_tensors()["wide.weight_scale"], nearest.named_tensors()["wide.weight_scale"])


def test_mixed_bits_are_measured_in_blocks(mlp: pl.Model, task: Task) -> None:
    small = quantize(mlp, task, NUMERICS, replace(FOUR, bits=Bits(ends=2, mixed=3.5)))
    rows = {r.name: r for r in pl.statistics(small).layers if r.weight_bits}
    weights = sum(r.params * r.weight_bits for r in rows.values()) / sum(r.params for r in rows.values())
    assert len({r.weight_bits for r in rows.values()}) > 1 and weights <= 3.5


@pytest.mark.parametrize("group", [48, 8, 1])
def test_other_blocks_are_refused_with_those_that_there_are(mlp: pl.Model, group: int) -> None:
    with pytest.raises(PacklightError, match=f"blocks of 16, 32, 64, 128, 256 .or None.; got {group}"):
        pl.quantize(mlp, mode="weights", group=group)
    with pytest.raises(PacklightError, match="none but whole channels"):
        quantize(mlp, Task(), replace(NUMERICS, blocks=()), FOUR)


def test_the_static_mode_still_says_that_it_needs_data(mlp: pl.Model) -> None:
    with pytest.raises(PacklightError, match="has no calibration data"):
        pl.quantize(mlp)


def test_the_command_takes_blocks_without_a_task(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from packlight.cli import app

    out = tmp_path / "small.plm"
    asked = ["--mode", "weights", "--weights", "4", "--group", "16", "--asymmetric", "--scales", "power-of-two"]
    done = CliRunner().invoke(app, ["quantize", str(LENET), "--out", str(out), *asked, "--json"])
    assert done.exit_code == 0, done.output
    scales = pl.load(out).named_tensors()["first.weight_scale"]
    assert len(scales) == 300 * 784 // 16 and bool((torch.frexp(scales)[0] == 0.5).all())

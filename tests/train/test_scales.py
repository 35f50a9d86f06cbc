"""Scales of quantizers that are learned with the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_tasks import digits, trained
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.model.operators import load_quantized_operators, packet
from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.targets import get
from packlight.train import Distill, Fit, LearnScales, fit
from packlight.train.taps import straight_through

load_quantized_operators()
NUMERICS = get("onnxruntime").numerics
HOW = Fit(epochs=2, batch=64, learning_rate=0.02)


@pytest.fixture(scope="module")
def rough() -> pl.Model:
    return quantize(trained(), digits(), NUMERICS, Quantization(bits=Bits(weights=2, activations=2, ends=2)))


def test_the_gradient_of_a_scale_is_that_of_the_paper() -> None:
    x, scale = torch.tensor([[-3.0, 0.13, 0.47, 9.0]]), nn.Parameter(torch.tensor(0.1))
    y = straight_through(x, scale, torch.tensor(0), -8, 7)
    y.backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    each = [-8, 1 - 1.3, 5 - 4.7, 7]
    assert scale.grad is not None
    wanted = sum(g * e for g, e in zip((1, 10, 100, 1000), each, strict=True)) / (4 * 7) ** 0.5
    assert float(scale.grad) == pytest.approx(wanted, rel=1e-5)


def test_the_gradient_of_a_channel_is_its_own() -> None:
    w = torch.tensor([[0.13, 9.0], [0.26, -0.13]])
    scales, zeros = nn.Parameter(torch.tensor([0.1, 0.2])), torch.zeros(2, dtype=torch.int64)
    y = straight_through(w, scales, zeros, -8, 7, 0)
    y.sum().backward()
    wanted = torch.tensor([(1 - 1.3) + 7, (1 - 1.3) + (-1 + 0.65)]) / (2 * 7) ** 0.5
    assert scales.grad is not None
    torch.testing.assert_close(scales.grad, wanted)


def test_scales_move_training_gains_and_the_operators_are_what_they_were(rough: pl.Model, tmp_path: Path) -> None:
    before, task = evaluate(rough, digits()), digits()
    fixed = evaluate(fit(rough, task, HOW, teacher=trained()), task)
    made = fit(rough, task, HOW, hooks=[LearnScales(), Distill(trained())])
    after = evaluate(made, task)
    assert after.measurement.value > before.measurement.value + 2
    assert after.measurement.value > fixed.measurement.value - 1
    assert [packet(n) for n in made.nodes] == [packet(n) for n in rough.nodes]
    assert not [n for n, _ in made.named_parameters() if n.endswith("_scale") or "_step_" in n]

    def scales(net: pl.Model) -> list[float]:
        return [n.args[1] for n in net.nodes if packet(n) == "quantize_per_tensor"]  # type: ignore[misc]

    assert all(isinstance(s, float) and s > 0 for s in scales(made)) and scales(made) != scales(rough)
    again = pl.load(made.save(tmp_path / "net.plm"))
    x = torch.from_numpy(task.test.inputs[0][:8])
    assert torch.equal(again.flat(x)[0], made.flat(x)[0])
    artifact = pl.export(made, tmp_path / "net.onnx")
    assert abs(pl.measure(artifact, task)["quality"].value - after.measurement.value) <= 100 / 300


def test_a_network_with_ranges_taken_at_run_time_trains() -> None:
    losses: list[float] = []
    task = digits()
    small = quantize(trained(), task, NUMERICS, Quantization(mode="dynamic", bits=Bits(weights=2, ends=2)))
    for hooks in ([], [LearnScales()]):
        made = fit(small, task, HOW, hooks=hooks, on_step=lambda p: losses.append(p.loss))
        assert sum(losses[-5:]) < sum(losses[:5])
        assert [packet(n) for n in made.nodes] == [packet(n) for n in small.nodes]
        losses.clear()


def test_frozen_scales_stand_still(rough: pl.Model) -> None:
    hook = LearnScales(freeze=0.5)
    fit(rough, digits(), Fit(epochs=0.2, batch=64), hooks=[hook])
    assert hook.rate(next(iter(hook.learned)), 0.4) == 1 and hook.rate(next(iter(hook.learned)), 0.6) == 0


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(PacklightError, match="no quantizers"):
        fit(trained(), digits(), HOW, hooks=[LearnScales()])
    with pytest.raises(PacklightError, match=r"in \(0, 1\]"):
        LearnScales(freeze=0)
    with pytest.raises(PacklightError, match="of weights, of activations"):
        LearnScales(weights=False, activations=False)

"""Training a quantized Model through its quantizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nets import model, same

import packlight as pl
from packlight.measure.quality import evaluate
from packlight.model.operators import packet
from packlight.task import Task
from packlight.train import Fit, fit
from packlight.train.taps import Tapped, straight_through

SHORT = Fit(epochs=1, batch=64, learning_rate=0.01)


@pytest.fixture(scope="module")
def small(task: Task) -> pl.Model:
    return pl.quantize(fit(model(), task, Fit(epochs=2, batch=64, learning_rate=0.1)), task)


def operators(net: pl.Model) -> list[str]:
    return [packet(n) for n in net.nodes]


def test_the_training_graph_computes_what_the_quantized_model_does(small: pl.Model, task: Task) -> None:
    x = torch.from_numpy(next(task.data("test").batches(64)).inputs[0])
    assert torch.equal(Tapped(small)(x)[0][0], small.flat(x)[0])


def test_the_gradient_passes_inside_the_range_and_stops_outside() -> None:
    x = torch.tensor([-1.0, -0.04, 0.0, 0.3, 12.74, 12.76, 30.0], requires_grad=True)
    y = straight_through(x, 0.1, 0, -128, 127)
    y.backward(torch.arange(1.0, 8.0))
    assert x.grad is not None and x.grad.tolist() == [1, 2, 3, 4, 5, 0, 0]
    assert y.detach().tolist() == pytest.approx([-1.0, 0.0, 0.0, 0.3, 12.7, 12.7, 12.7])


def test_training_keeps_the_quantizers_and_moves_the_weights(small: pl.Model, task: Task) -> None:
    losses: list[float] = []
    made = fit(small, task, SHORT, on_step=lambda p: losses.append(p.loss))
    assert operators(made) == operators(small) and not same(made, small)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    for name, tensor in small.named_tensors().items():
        if name.endswith(("_scale", "_zero_point")):
            assert torch.equal(tensor, made.named_tensors()[name])


def test_what_was_trained_is_what_the_file_computes(small: pl.Model, task: Task, tmp_path: Path) -> None:
    made = fit(small, task, SHORT)
    artifact = pl.export(made, tmp_path / "net.onnx")
    agreement = pl.measure(artifact, task)["quality"].value - evaluate(made, task).measurement.value
    assert abs(agreement) <= 100 / 300  # one image of 300


def test_saved_loaded_and_trained_on_gives_the_same_losses(small: pl.Model, task: Task, tmp_path: Path) -> None:
    def losses(net: pl.Model) -> list[float]:
        found: list[float] = []
        fit(net, task, SHORT, on_step=lambda p: found.append(p.loss))
        return found

    assert losses(small) == losses(pl.load(small.save(tmp_path / "small.plm")))


def test_what_coarse_rounding_lost_comes_back_by_training(task: Task) -> None:
    """Scales 128 times coarser: of 255 levels a weight has three left."""
    small = pl.quantize(fit(model(), task, Fit(epochs=4, batch=64, learning_rate=0.1)), task)
    with torch.no_grad():
        for name, tensor in small.named_tensors().items():
            if name.endswith("weight_scale"):
                tensor.mul_(128)
    before = evaluate(small, task).measurement.value
    after = evaluate(fit(small, task, Fit(epochs=4, batch=64, learning_rate=0.05)), task).measurement.value
    assert after > before + 5

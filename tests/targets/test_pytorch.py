"""PyTorch itself meets the contract that plug-ins' targets are held to, and runs what other targets' Models hold."""

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.measure.parity import check
from packlight.targets import Runner, get, names
from packlight.testing import TargetContract
from packlight.testing.examples import inputs_of, models, random_task


class TestPyTorch(TargetContract):
    def target(self):
        return get("torch")


@pytest.mark.parametrize("name", [n for n in names() if n != "torch" and get(n).numerics.groups])
def test_a_model_quantized_for_another_target_stays_as_it_is(name, tmp_path):
    model = pl.quantize(models()[0], random_task(models()[0]), target=name)
    file = pl.export(model, tmp_path / "net.plm", target="torch")
    assert check(model, file, inputs_of(model, 4)).error < 1e-6
    assert "int8 is simulated by PyTorch, and slower than float" in file.manifest["notes"]


def test_integers_are_stored_in_one_byte(tmp_path):
    model = pl.load(nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)), torch.zeros(2, 256))
    small = pl.quantize(model, random_task(model), target="torch")
    sizes = [pl.export(m, tmp_path / f"{i}.plm", target="torch").bytes for i, m in enumerate((model, small))]
    assert sizes[1] < 0.3 * sizes[0]


def test_it_says_how_long_layers_take(tmp_path):
    model = models()[0]
    inputs = tuple(np.asarray(x) for x in inputs_of(model, 2))
    with Runner(pl.export(model, tmp_path / "net.plm", target="torch")) as runner:
        taken = runner.profile(inputs, 0.05)
    assert {"stem.0", "head"} <= set(taken)
    assert all(seconds > 0 for seconds in taken.values())

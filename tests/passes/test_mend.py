"""Networks made bad on purpose, and mended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_compare import BATCHES, IMAGES, NUMERICS, TASK, Net
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.model import Step
from packlight.passes.quantize import Bits, Quantization, Rounding, layer_errors, mend, quantize
from packlight.passes.quantize.mend import end_to_end, recorded, remedied
from packlight.task import Task


@pytest.fixture(scope="module")
def net() -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Net(), torch.zeros(2, 3, 8, 8))


def test_a_layer_of_two_bits_gets_eight_and_the_other_options_stay(net: pl.Model) -> None:
    options = Quantization("percentile", samples=64, exclude=("head",), bits=Bits(layers={"second": 2}))
    bad = quantize(net, TASK, NUMERICS, options)
    done = mend(net, bad, TASK, NUMERICS, BATCHES)
    assert done.changes == ("second: weights of 8 bits",) and done.sound
    assert done.after > done.before + 10
    made = recorded(done.model)
    assert made == replace(options, bits=Bits(layers={"second": 8}))
    assert min(e.own for e in layer_errors(net, done.model, BATCHES)) >= 30
    assert done.after == end_to_end(net, done.model, BATCHES)


def test_a_last_layer_that_has_eight_bits_already_is_left_in_float(net: pl.Model) -> None:
    bad = quantize(net, TASK, NUMERICS, Quantization(bits=Bits(weights=2)))
    errors = [replace(e, own=10.0, weights=10.0) for e in layer_errors(net, bad, BATCHES) if e.layer != "third"]
    changed, done = remedied(net, bad, NUMERICS, recorded(bad), errors)
    assert set(done) == {"first.0: left in float", "head: left in float", "second: weights of 8 bits"}
    assert set(changed.exclude) == {"first.0", "head"} and changed.bits.layers == {"second": 8}


class Outlier(nn.Module):
    """One channel of what `wide` gives is 1,000 times the others, and `after` reads it with weights as much smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.after = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.wide.weight[3] *= 1000
            self.after.weight[:, 3] /= 1000

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.after(self.wide(self.first(x).relu()).relu()).relu()).mean((2, 3))


def test_an_outlier_channel_is_left_in_float_with_the_layer_that_writes_it() -> None:
    torch.manual_seed(0)
    net = pl.load(Outlier(), torch.zeros(2, 3, 8, 8))
    bad = quantize(net, TASK, NUMERICS)
    assert layer_errors(net, bad, BATCHES)[0].layer == "after"
    done = mend(net, bad, TASK, NUMERICS, BATCHES)
    assert "after: left in float" in done.changes and "wide: left in float" in done.changes
    assert done.after > done.before + 5 and done.sound
    assert {e.layer for e in layer_errors(net, done.model, BATCHES)} == {"first", "last"}


def test_rare_large_values_that_were_clipped_get_their_range(net: pl.Model) -> None:
    images = IMAGES.copy()
    images[:, :, 0, 0] *= 6
    task, batches = Task(calibration=images), [(torch.from_numpy(images[:32]),)]
    narrow = quantize(net, Task(calibration=IMAGES * 0.3), NUMERICS)
    assert layer_errors(net, narrow, batches)[0].clipped > 0.01
    done = mend(net, narrow, task, NUMERICS, batches)
    assert any("extremes" in change for change in done.changes) and recorded(done.model).ranges == "minmax"
    assert done.after > done.before + 10


def test_a_sound_network_is_left_as_it_is(net: pl.Model) -> None:
    good = quantize(net, TASK, NUMERICS)
    done = mend(net, good, TASK, NUMERICS, BATCHES)
    assert done.model is good and done.changes == () and done.sound and done.before == done.after


def test_options_are_read_from_the_lineage_as_they_were_given(net: pl.Model) -> None:
    options = Quantization("minmax", 8, ("head",), Bits(4, 6, 5, {"se*": 3}, 6.0), Rounding(steps=1, layers=True))
    assert recorded(quantize(net, Task(calibration=IMAGES[:8]), NUMERICS, options)) == options


def test_what_cannot_be_made_again_is_refused(net: pl.Model) -> None:
    with pytest.raises(PacklightError, match="does not record"):
        recorded(net)
    trained = quantize(net, TASK, NUMERICS).with_step(Step("finetune"))
    with pytest.raises(PacklightError, match="went on after it was quantized \\(finetune\\)"):
        mend(net, trained, TASK, NUMERICS, BATCHES)


def test_the_file_on_its_runtime_is_compared_layer_by_layer(net: pl.Model) -> None:
    small = quantize(net, TASK, NUMERICS)
    found = pl.compare_layers(net, small, TASK, target="onnxruntime", samples=32)
    assert all(e.file is not None and e.file > 40 for e in found)
    assert all(e.file is None for e in pl.compare_layers(net, small, TASK, samples=32))


def test_the_command_mends_and_writes(net: pl.Model, tmp_path, monkeypatch) -> None:
    from typer.testing import CliRunner

    from packlight.cli import app

    (tmp_path / "task.py").write_text(
        "import numpy as np, packlight as pl\n"
        "task = pl.Task(calibration=np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32))\n"
    )
    net.save(tmp_path / "net.plm")
    quantize(net, TASK, NUMERICS, Quantization(bits=Bits(layers={"second": 2}))).save(tmp_path / "bad.plm")
    monkeypatch.chdir(tmp_path)
    command = ["compare-layers", "net.plm", "bad.plm", "--task", "task.py", "--target", "", "--fix"]
    assert CliRunner().invoke(app, command).exit_code != 0  # nowhere to write to
    said = CliRunner().invoke(app, [*command, "--out", "good.plm"])
    assert said.exit_code == 0, said.output
    assert "changed: second: weights of 8 bits" in said.output and "dB before" in said.output
    good = pl.Model.load(tmp_path / "good.plm")
    assert end_to_end(net, good, BATCHES) > 30 and np.isfinite(end_to_end(net, good, BATCHES))

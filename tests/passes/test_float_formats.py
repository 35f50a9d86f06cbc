"""Weights in floats of one and two bytes: their grids, the pass, training, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_tasks import digits, untrained

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.model.floats import narrow, narrowed
from packlight.model.integers import freeze
from packlight.model.numerics import FLOAT_FORMATS, FloatFormat
from packlight.passes.quantize import float_format, store_floats
from packlight.passes.quantize.floats import channel_scales
from packlight.targets import get
from packlight.task import Task
from packlight.testing import PassContract
from packlight.train.taps import Tapped

ROOT = Path(__file__).parents[2]
FORMATS = {form.name: form for form in FLOAT_FORMATS}
NAMES = ("fp8-e4m3", "fp8-e5m2", "bf16", "fp16")


@pytest.fixture(scope="module")
def resnet() -> pl.Model:
    return pl.load(ROOT / "packlight/data/resnet20_fashion_mnist.plm")


@pytest.fixture(scope="module")
def lenet() -> pl.Model:
    return pl.load(ROOT / "benchmarks/networks/lenet5.plm")


@pytest.fixture(scope="module")
def some(resnet: pl.Model) -> tuple[Task, float]:
    """400 images, and of how many percent the float network is right."""
    task = Task.named("fashion-mnist")
    task = replace(task, validation=task.validation.take(400))
    return task, evaluate(resnet, task, "validation").measurement.value


class TestContract(PassContract):
    largest_change = 0.05

    def apply(self, model: pl.Model) -> pl.Model:
        return store_floats(model, FORMATS["fp8-e4m3"])


def test_values_are_those_that_can_be_written_down() -> None:
    e4m3 = [0.0, 2**-9, 2**-6, 1.0, 1.125, 1.25, 448.0, 448.0, -448.0]
    given = torch.tensor([2**-11, 2**-9, 2**-6, 1.05, 1.07, 1.1875, 448.0, 1e6, -1e6])
    assert narrow(given, torch.float8_e4m3fn).tolist() == e4m3  # 1.1875 is a tie, to the even 1.25
    assert narrow(torch.tensor([1.1, 57344.0, 1e6]), torch.float8_e5m2).tolist() == [1.0, 57344.0, 57344.0]


def test_a_channels_largest_magnitude_is_the_formats_largest_value() -> None:
    weight = torch.tensor([[[0.5, -4.48]], [[0.0, 0.0]], [[1e-3, 2.24e-2]]])
    scale = channel_scales(weight, 0, FORMATS["fp8-e4m3"])
    assert scale.shape == (3, 1, 1) and bool((scale > 0).all())
    assert scale[[0, 2]].flatten().tolist() == pytest.approx([0.01, 5e-5])
    assert torch.equal(narrow(weight / scale, torch.float8_e4m3fn)[1].float(), torch.zeros(1, 2))
    assert [FORMATS[n].largest for n in NAMES[:2]] == [448.0, 57344.0]


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_lies_on_the_grid_next_to_its_own(resnet: pl.Model, name: str) -> None:
    form, folded = FORMATS[name], pl.fold(resnet)
    small = freeze(pl.quantize(resnet, mode="weights", weights=name))
    tensors, before = small.named_tensors(), folded.named_tensors()
    weights = [n for n, t in before.items() if t.dim() > 1]
    assert len(weights) == len(narrowed(small)) == 22 and not small.notes
    half = torch.finfo(form.dtype).eps / 2
    for weight in weights:
        stored, wanted = tensors[f"{weight}_low"], before[weight].detach()
        assert weight not in tensors and stored.dtype == form.dtype
        scale = tensors[f"{weight}_scale"] if form.scaled else torch.ones(())
        assert torch.equal(stored.float(), (wanted / scale).to(form.dtype).float())
        least = torch.finfo(form.dtype).smallest_normal * scale
        assert ((stored.float() * scale - wanted).abs() <= 1.001 * half * wanted.abs().maximum(least)).all()
        if form.scaled:
            assert (stored.float().abs().flatten(1).amax(1) == form.largest).all()


@pytest.mark.parametrize(("name", "points"), [("fp8-e4m3", 1.5), ("fp8-e5m2", 3.0), ("bf16", 0.75), ("fp16", 0.25)])
def test_accuracy_stays_close(resnet: pl.Model, some: tuple[Task, float], name: str, points: float) -> None:
    """On 400 images: a coarser format may lose more, and none loses what a broken scale would."""
    task, before = some
    after = evaluate(pl.quantize(resnet, mode="weights", weights=name), task, "validation")
    assert before > 90 and before - after.measurement.value <= points


@pytest.mark.parametrize(("name", "share"), [("fp8-e5m2", 0.25), ("bf16", 0.5)])
def test_statistics_count_what_is_stored(lenet: pl.Model, name: str, share: float) -> None:
    small, whole = pl.quantize(lenet, mode="weights", weights=name), pl.statistics(lenet)
    for counted in (pl.statistics(small), pl.statistics(freeze(small))):
        assert counted.weight_bytes == pytest.approx(share * whole.weight_bytes, rel=0.01)
        assert (counted.params, counted.macs) == (whole.params, whole.macs)
        assert {r.weight_bits for r in counted.layers} == {0, FORMATS[name].dtype.itemsize * 8}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_saved_frozen_and_loaded_the_same(lenet: pl.Model, tmp_path: Path, name: str) -> None:
    small, x = pl.quantize(lenet, mode="weights", weights=name), lenet.example_inputs(batch=3)[0]
    whole = freeze(small)
    again, stored = pl.load(small.save(tmp_path / "small.plm")), pl.load(whole.save(tmp_path / "whole.plm"))
    assert small.is_quantized and again.is_quantized and stored.is_quantized and not lenet.is_quantized
    for made in (again, stored, freeze(stored)):
        assert torch.equal(made(x), small(x))
    sizes = [p.stat().st_size for p in (tmp_path / "whole.plm", lenet.save(tmp_path / "float.plm"))]
    assert sizes[0] < (FORMATS[name].dtype.itemsize / 4 + 0.03) * sizes[1]


@pytest.mark.parametrize("name", ["fp8-e4m3", "bf16"])
def test_training_runs_through_the_casts_and_learns(name: str) -> None:
    """From random weights to digits, all of them in the format; scales stay."""
    small, task = pl.quantize(untrained(), mode="weights", weights=name), digits()
    x = torch.from_numpy(task.validation.inputs[0])
    assert torch.equal(Tapped(small)(x)[0][0], small.flat(x)[0])
    made = pl.finetune(small, task, epochs=3, learning_rate=0.02)
    moved = {n for n, t in small.named_tensors().items() if not torch.equal(t, made.named_tensors()[n])}
    masters = {str(how.source.target) for how in narrowed(made).values()}
    assert len(masters) == 3 and masters <= moved and not any(n.endswith("_scale") for n in moved)
    before, after = (evaluate(m, task, "validation").measurement.value for m in (small, made))
    assert after > before + 20


def test_the_gradient_stops_where_a_value_leaves_the_range(lenet: pl.Model) -> None:
    from packlight.train.taps import round_float

    x = torch.tensor([1.0, 448.0, 460.0, 470.0, -1e4], requires_grad=True)
    round_float(x, torch.float8_e4m3fn).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_layers_that_are_named_or_out_of_range_stay_in_float(lenet: pl.Model) -> None:
    wide = lenet.copy()
    weights = [n for n, t in wide.named_tensors().items() if t.dim() > 1]
    with torch.no_grad():
        wide.named_tensors()[weights[-1]][0, 0] = 1e5
    small = pl.quantize(wide, mode="weights", weights="fp16")
    assert len(narrowed(small)) == len(weights) - 1
    assert any("fp16 has not the range" in note for note in small.notes)
    assert len(narrowed(pl.quantize(wide, mode="weights", weights="bf16"))) == len(weights)
    first = next(how for how in narrowed(small).values())
    layer = str(first.source.target).rpartition(".")[0]
    left = pl.quantize(lenet, mode="weights", weights="fp8-e4m3", exclude=layer)
    assert len(narrowed(left)) == len(weights) - 1 and f"{layer} stays in float: excluded by name" in left.notes


def test_what_cannot_be_is_refused_before_work_starts(lenet: pl.Model) -> None:
    with pytest.raises(PacklightError, match=r"'fp9': choose 2 to 8 bits, fp8-e4m3, fp8-e5m2, bf16, fp16$"):
        pl.quantize(lenet, mode="weights", weights="fp9")
    for mode in ("static", "dynamic"):
        with pytest.raises(PacklightError, match=f"choose mode 'weights', got '{mode}'"):
            pl.quantize(lenet, mode=mode, weights="fp8-e4m3")
    with pytest.raises(PacklightError, match="go without rounding, equalize"):
        pl.quantize(lenet, mode="weights", weights="fp16", rounding="gptq", equalize=True)
    small = pl.quantize(lenet, mode="weights", weights="fp16")
    for options in ({"weights": "fp16"}, {"weights": 4}):
        with pytest.raises(PacklightError, match="is quantized already"):
            pl.quantize(small, mode="weights", **options)  # type: ignore[arg-type]
    few = replace(get("onnxruntime").numerics, floats=(FloatFormat("fp16", torch.float16),))
    with pytest.raises(PacklightError, match=r"'bf16': choose 2 to 8 bits, fp16$"):
        float_format("bf16", few)


def test_the_command_takes_a_format_by_name(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from packlight.cli import app

    out, net = tmp_path / "small.plm", str(ROOT / "benchmarks/networks/lenet5.plm")
    asked = ["quantize", net, "--out", str(out), "--mode", "weights", "--weights"]
    done = CliRunner().invoke(app, [*asked, "fp8-e4m3", "--json"])
    assert done.exit_code == 0, done.output
    assert {how.dtype for how in narrowed(pl.load(out)).values()} == {torch.float8_e4m3fn}

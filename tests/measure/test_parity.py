"""Does a file compute what its Model computes? Deliberately wrong ones must be caught."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from small_tasks import digits, images, trained

import packlight as pl
from packlight.errors import ChildFailure
from packlight.files import sha256
from packlight.measure import parity
from packlight.measure.parity import GAIN_LIMIT, QUANTIZED_LIMIT, check, difference, first_difference
from packlight.targets import Artifact, Target, export

INPUTS = (images(32),)


@functools.cache
def model(kind: str) -> pl.Model:
    return pl.quantize(trained(), digits()) if kind == "int8" else pl.fold(trained())


@pytest.fixture(scope="module")
def files(exporter, tmp_path_factory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("files")
    forms = {"float32": "float32", "float16": "float16", "int8": "float32"}
    return {
        kind: export(model(kind), folder / f"{kind}.onnx", exporter.target, form=form, exporter=exporter)
        for kind, form in forms.items()
    }


@pytest.fixture
def one_exporter(exporter, monkeypatch):
    """Probes are exported in the child that is there already: starting one takes seconds."""
    monkeypatch.setattr(parity, "export", functools.partial(export, exporter=exporter))


@pytest.fixture
def nobody_blamed(monkeypatch):
    """Looking for the bad layer takes another export."""
    monkeypatch.setattr(parity, "_blame", lambda *_: (None, "somewhere"))


@pytest.fixture
def wrong_converter(exporter, monkeypatch):
    """A converter that makes the layer `body` 1.3 times too large, whenever it is asked."""

    def wrong(model: pl.Model, path: Path, target: Target, **more: object) -> Artifact:
        larger = model.copy()
        with torch.no_grad():
            larger.named_tensors()["body.weight"].mul_(1.3)
        return export(larger, path, target, exporter=exporter, **more)

    monkeypatch.setattr(parity, "export", wrong)
    return wrong


def corrupted(artifact: Artifact, folder: Path, layer: str, factor: float) -> Artifact:
    """A copy with one layer's weights scaled, and a manifest that says that this is how it should be."""
    copy = artifact.save(folder)
    graph = onnx.load(copy.path)
    names = [t.name for t in graph.graph.initializer]
    name = next(n for n in names if n.startswith(f"{layer}.weight"))
    name = next((n.input[1] for n in graph.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == name), name)
    tensor = graph.graph.initializer[names.index(name)]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))
    onnx.save(graph, copy.path)
    facts = {"bytes": copy.path.stat().st_size, "sha256": sha256(copy.path)}
    return Artifact(copy.path, copy.target, {**copy.manifest, "files": {copy.path.name: facts}})


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_what_packlight_exports_computes_what_the_model_computes(files, kind):
    found = check(model(kind), files[kind], INPUTS)
    assert found.ok and not found.reason
    assert found.error < found.limit / 3
    assert abs(found.gain - 1) < GAIN_LIMIT / 5


@pytest.mark.parametrize("kind", [pytest.param("float32", marks=pytest.mark.slow), "int8"])
def test_a_corrupted_file_is_caught_and_not_blamed_on_a_layer(files, one_exporter, tmp_path, kind):
    found = check(model(kind), corrupted(files[kind], tmp_path, "stem", 1.3), INPUTS)
    assert not found.ok
    assert found.error > 3 * found.limit
    assert found.layer is None
    assert "this file is not what packlight exports" in found.reason


@pytest.mark.parametrize("layer", ["stem", "body", "head"])
def test_one_weight_that_is_off_by_one_percent_fails_a_float_file(files, nobody_blamed, tmp_path, layer):
    wrong = corrupted(files["float32"], tmp_path, layer, 1.01)
    assert not check(model("float32"), wrong, INPUTS).ok


def test_an_output_scale_that_is_off_by_one_percent_fails_a_quantized_file(files, nobody_blamed, tmp_path):
    found = check(model("int8"), corrupted(files["int8"], tmp_path, "head", 1.01), INPUTS)
    assert found.error < QUANTIZED_LIMIT, "the error alone does not see it"
    assert abs(found.gain - 1) > GAIN_LIMIT
    assert not found.ok


@pytest.mark.parametrize("kind", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_layer_that_a_converter_gets_wrong_is_named(wrong_converter, exporter, tmp_path, kind):
    artifact = wrong_converter(model(kind), tmp_path / "wrong.onnx", exporter.target)
    found = check(model(kind), artifact, INPUTS)
    assert not found.ok
    assert found.layer == "body"
    assert "first at layer 'body'" in found.reason


def test_a_converter_that_fails_on_the_probe_does_not_hide_the_fault(files, tmp_path, monkeypatch):
    def fail(*args, **more):
        raise ChildFailure("onnxruntime: write crashed (SIGSEGV)")

    wrong = corrupted(files["float32"], tmp_path, "stem", 2.0)
    monkeypatch.setattr(parity, "export", fail)
    found = check(model("float32"), wrong, INPUTS)
    assert not found.ok and found.layer is None
    assert "looking for the layer failed, onnxruntime: write crashed" in found.reason


@pytest.mark.slow
def test_nothing_differs_where_all_is_well(files, one_exporter):
    assert first_difference(model("int8"), files["int8"], INPUTS) is None


WANTED = np.random.default_rng(0).normal(size=(32, 10))


@pytest.mark.parametrize(
    ("got", "wanted", "error", "gain"),
    [
        (WANTED, WANTED, 0, 1),
        (1.01 * WANTED, WANTED, 0.01, 1.01),
        (WANTED + 0.1, np.ones((32, 10)), None, None),
        (WANTED[:1], WANTED, np.inf, None),
        (np.where(WANTED > 2, np.nan, WANTED), WANTED, np.inf, None),
        (np.full(3, -np.inf), np.full(3, -np.inf), 0, 1),
        (np.zeros(4), np.zeros(4), 0, 1),
        (np.full(4, 0.5), np.zeros(4), 1.0, 1),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0, 1),
        (np.array([1, 2, 3, 5]), np.array([1, 2, 3, 4]), 0.25, 1),
        (np.array([True, False]), np.array([True, False]), 0, 1),
    ],
    ids=["equal", "1 % off", "other", "another shape", "NaN", "infinite alike", "zeros", "not zeros", "empty",
         "integers", "booleans"],
)  # fmt: skip
def test_differences_are_relative_to_what_is_wanted(got, wanted, error, gain):
    found = difference(got, wanted)
    assert error is None or found.error == pytest.approx(error)
    assert gain is None or found.gain == pytest.approx(gain)
    assert found.within(0.005) == (error == 0)

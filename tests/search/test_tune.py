"""The placement tuned by timing. Nothing here asks how fast anything is: a busy machine must not fail it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_tasks import digits, images, untrained

import packlight as pl
from packlight import targets
from packlight.errors import PacklightError
from packlight.measure import profile
from packlight.measure.timings import Timings
from packlight.model.operators import packet
from packlight.passes.fold import fold
from packlight.passes.quantize import Quantization, quantize
from packlight.search import tune as module
from packlight.search.regions import kernels_of
from packlight.search.tune import Plain, conversion_times, kernel_times, tune
from packlight.targets import get
from packlight.task import Task

ORT = get("onnxruntime")
VERSIONS = {"onnxruntime": "1", "torch": "2"}
INPUTS = (images(8),)
OPTIONS = Quantization(samples=32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, exporter) -> Plain:
    folder = tmp_path_factory.mktemp("plain")
    model = fold(untrained())
    small = quantize(model, digits(), ORT.numerics, OPTIONS)
    files = tuple(
        targets.export(m, folder / f"{n}.onnx", ORT, exporter=exporter) for n, m in (("float", model), ("int8", small))
    )
    return Plain(model, small, files)


def region_of(plain: Plain):
    return kernels_of(plain.model, ORT.numerics, (), len(INPUTS[0]))


def test_every_kernel_and_conversion_is_timed_once_and_then_known(plain, tmp_path, exporter, monkeypatch):
    region, timings = region_of(plain), Timings(VERSIONS, tmp_path)
    low, full, timed = kernel_times(region, plain.files, INPUTS, 1, timings)
    assert timed == len(region.names) == len(low) and min(low) > 0
    assert sum(t > 0 for t in full) >= 3  # all but what is computed on the way
    convert, more = conversion_times(region, ORT, tmp_path, 1, timings, exporter)
    assert more > 0 and set(convert) == {v.shape for v in region.passed}
    assert all(narrow > 0 and widen > 0 for narrow, widen in convert.values())
    monkeypatch.setattr(module, "profiles", None)  # nothing may be timed from here on
    known = Timings(VERSIONS, tmp_path)
    assert kernel_times(region, plain.files, INPUTS, 1, known) == (low, full, 0)
    assert conversion_times(region, ORT, tmp_path, 1, known, exporter) == (convert, 0)


def made_slow(plain: Plain, folder, exporter, slow: str) -> None:
    """A cache that says one kernel is slow in int8 and conversions are free."""
    region, timings = region_of(plain), Timings(plain.files[0].manifest["versions"], folder)
    timings.add([
        (["kernel", 1, s], {"low": 9e-3 if n == slow else 1e-4, "full": 1e-3})
        for n, s in zip(region.names, region.signatures, strict=True)
    ])  # fmt: skip
    sizes = {int(np.prod(v.shape)) for v in region.passed}
    timings.add([(["convert", 1, n], {"narrow": 0.0, "widen": 0.0}) for n in sizes])


def test_what_is_slow_is_tried_in_float_and_kept_there_only_where_the_file_is_faster(plain, tmp_path, exporter):
    made_slow(plain, tmp_path, exporter, "stem")
    found = tune(plain, digits(), ORT, OPTIONS, INPUTS, tmp_path, exporter=exporter, cache=tmp_path)
    assert found.timed == 0 and found.ratio is not None
    assert set(found.excluded) == ({"stem"} if found.ratio.high < 1 else set())
    if not found.excluded:
        assert found.model is plain.quantized


def test_left_in_float_means_in_float_in_the_file_and_the_notes_say_why(plain, tmp_path, exporter):
    import onnx

    made = module._without(plain.model, digits(), ORT, OPTIONS, {"stem": module._reason(1.2e-4, 8e-5)})
    assert "stem stays in float: ran slower in int8 here: 0.12 ms against 0.08 ms" in made.notes
    stem = made.layers()["stem"]
    assert all(not packet(n).startswith("dequantize") for n in stem.all_input_nodes)
    targets.export(made, tmp_path / "made.onnx", ORT, exporter=exporter)
    convs = {n.name: n for n in onnx.load(tmp_path / "made.onnx").graph.node if n.op_type == "Conv"}
    writers = {o: n.op_type for n in onnx.load(tmp_path / "made.onnx").graph.node for o in n.output}
    assert [writers.get(i) for i in convs["stem"].input[:2]] == [None, None]
    assert [writers.get(i) for i in convs["body"].input[:2]] == ["DequantizeLinear"] * 2


def test_a_kernel_that_float_computes_on_the_way_has_a_reason_of_its_own():
    assert module._reason(2e-5, 0.0).startswith("took 0.02 ms in int8 here and none in float")
    assert "among layers" in module._reason(1e-5, 2e-5)


def test_where_nothing_is_slow_nothing_is_built(plain, tmp_path, exporter):
    made_slow(plain, tmp_path, exporter, "no such layer")
    found = tune(plain, digits(), ORT, OPTIONS, INPUTS, tmp_path, exporter=exporter, cache=tmp_path)
    assert found.model is plain.quantized and found.ratio is None and not found.excluded
    assert not list(tmp_path.glob("tuned-*"))


def test_the_public_function_gives_a_model_that_still_works(monkeypatch, tmp_path):
    monkeypatch.setenv("PACKLIGHT_CACHE", str(tmp_path))
    found = pl.tune_placement(untrained(), digits(), samples=16)
    assert found.timed > 0 and list(tmp_path.glob("timings/*.json"))
    x = torch.from_numpy(images(64))
    wanted = untrained().eval()(x)
    assert found.model.is_quantized and float((found.model(x) - wanted).norm() / wanted.norm()) < 0.1


def test_ranges_taken_at_run_time_are_not_tuned():
    dynamic, task = replace(OPTIONS, mode="dynamic"), Task(calibration=images(4))
    with pytest.raises(PacklightError, match="calibration data"):
        module.tune_placement(untrained(), task, ORT, dynamic, (images(1),))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 3, "b": {"low": -1}, "c": {"low": "1"}}', "\x00\x01"])
def test_a_cache_that_is_not_whole_counts_for_nothing(tmp_path, content):
    path = Timings(VERSIONS, tmp_path).path
    path.parent.mkdir()
    path.write_text(content)
    timings = Timings(VERSIONS, tmp_path)
    assert timings.get("x") is None
    timings.add([("x", {"low": 1.0})])
    assert Timings(VERSIONS, tmp_path).get("x") == {"low": 1.0}
    assert Timings({"onnxruntime": "2"}, tmp_path).get("x") is None  # another version, other times


def test_two_processes_that_share_a_cache_keep_both_ones_timings(tmp_path):
    one, other = Timings(VERSIONS, tmp_path), Timings(VERSIONS, tmp_path)
    one.add([("x", {"low": 1.0})])
    other.add([("y", {"low": 2.0})])
    both = Timings(VERSIONS, tmp_path)
    assert both.get("x") == {"low": 1.0} and both.get("y") == {"low": 2.0}
    assert [p.name for p in both.path.parent.iterdir()] == [both.path.name]


def test_a_cache_that_cannot_be_written_is_none(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    timings = Timings(VERSIONS, blocked)
    timings.add([("x", {"low": 1.0})])
    assert timings.get("x") == {"low": 1.0} and Timings(VERSIONS, blocked).get("x") is None


def test_what_the_profiler_adds_is_taken_off_again():
    taken = profile.undisturbed({"a": 10.0, "b": 20.0, "c": 6.0}, call=21.0)
    assert taken == pytest.approx({"a": 5.0, "b": 15.0, "c": 1.0})
    assert profile.undisturbed({"a": 10.0, "b": 1.0}, call=2.0)["b"] == pytest.approx(0.1)
    assert profile.least([{"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 4.0}]) == {"a": 2.0, "b": 1.0}
    assert profile.by_layer({"a.b": 1.0, "a.b/MatMul": 2.0, "a": 4.0, "z": 8.0}, ["a", "a.b"]) == {"a.b": 3.0, "a": 4.0}

"""One network on several runtimes: every form proven, scored and timed, and reasons for what is not there."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.report.comparison import page
from packlight.targets import Target, get
from packlight.targets.onnxruntime import OnnxRuntime

pytestmark = pytest.mark.slow  # eight files are made and timed


class WrongOne(OnnxRuntime):
    """Computes 5 % too much, and says it is float."""

    name = "wrong"
    forms = ("float32",)

    def write(self, model, path, form, dims):
        wrong = model.copy()
        for name, tensor in wrong.named_tensors().items():
            if name.endswith("2.weight"):
                wrong.set_tensor(name, tensor.detach() * 1.05)
        return super().write(wrong, path, form, dims)


class FixedOne(OnnxRuntime):
    """Takes one size only, and has a note."""

    name, forms, keeps_dynamic = "fixed", ("float32",), False

    @property
    def numerics(self):
        from dataclasses import replace

        return replace(get("onnxruntime").numerics, groups=(), dynamic=frozenset())

    def write(self, model, path, form, dims):
        assert dims["batch"] == 1
        super().write(model, path, form, dims)
        return ["a note of the converter"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    return pl.load(module, torch.zeros(2, 16), name="small")


@pytest.fixture(scope="module")
def task(network):
    x = np.random.default_rng(0).standard_normal((96, 16)).astype(np.float32)
    y = network.eval().flat(torch.from_numpy(x))[0].argmax(1).numpy()
    return pl.Task("points", calibration=x, validation=(x, y), test=(x, y))


@pytest.fixture(scope="module")
def found(network, task):
    return pl.compare(network, task, target=[OnnxRuntime(), WrongOne(), FixedOne()])


def test_every_form_of_every_runtime_is_there(found):
    told = [(r.target, r.form) for r in found.rows]
    mine = [("onnxruntime", f) for f in ("float32", "float16", "int8", "int8-dynamic")]
    assert told == [*mine, ("wrong", "float32"), ("wrong", "int8"), ("wrong", "int8-dynamic"), ("fixed", "float32")]


def test_a_file_that_computes_something_else_is_refused_and_says_why(found):
    wrong = [r for r in found.rows if r.target == "wrong"]
    assert not any(r.ok for r in wrong)
    assert "does not compute what the Model computes" in wrong[0].refused and not wrong[0].measurements.get(
        "latency_ms"
    )
    assert found.best("wrong") is None


def test_what_works_has_every_number(found):
    rows = [r for r in found.rows if r.ok]
    for row in rows:
        assert {"quality", "drop_points", "agreement", "file_bytes", "latency_ms", "latency_ratio"} <= set(
            row.measurements
        )
    whole = rows[0].measurements
    assert whole["quality"].value == 100 and whole["drop_points"].value == 0 and whole["latency_ratio"].value == 1
    assert found.best("onnxruntime").target == "onnxruntime"
    assert next(r for r in rows if r.target == "fixed").notes == ("a note of the converter",)


def test_runtimes_are_compared_with_each_other(found):
    pair = found.agreement[("onnxruntime", "float32"), ("fixed", "float32")]
    assert pair.value == 100 and pair.n == 96


def test_the_page_and_the_json_have_all_of_it(found):
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    text = page(told)
    for words in ("small", "does not compute what the Model computes", "a note of the converter", "int8-dynamic"):
        assert words in text
    assert not re.search(r"https?://(?!www\.w3\.org)[^\"' ]*\.(js|css)", text), "the page fetches something"


def test_a_quantized_network_is_refused(network, task):
    with pytest.raises(pl.PacklightError, match="compare the float network"):
        pl.compare(pl.quantize(network, task), task)


def test_sizes_that_a_network_does_not_have_are_refused(network, tmp_path):
    with pytest.raises(pl.PacklightError, match="no dynamic dimension 'length'; it has batch"):
        pl.export(network, tmp_path / "net.onnx", dims={"length": 3})
    with pytest.raises(pl.PacklightError, match="a size is >= 1"):
        pl.export(network, tmp_path / "net.onnx", dims={"batch": 0})


def test_a_runtime_that_fixes_sizes_states_them(network, tmp_path):
    for dims, size in (({}, 1), ({"batch": 4}, 4)):
        if size == 1:
            file = pl.export(network, tmp_path / "net.onnx", target=FixedOne(), dims=dims)
            assert file.manifest["inputs"][0]["shape"] == [size, 16] and file.manifest["outputs"][0]["shape"] == [
                size,
                4,
            ]
            assert file.fixed_batch == size and file.manifest["dims"] == {}
    assert isinstance(FixedOne(), Target)

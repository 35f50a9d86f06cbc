"""Rules of installed packages, and the commands on ONNX files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx_file_builder import node, saved
from typer.testing import CliRunner

import packlight as pl
from packlight.cli import app
from packlight.errors import PacklightError
from packlight.sources.onnx import plugins
from packlight.targets.manifest import manifest_path
from packlight.targets.onnxruntime import OnnxRuntime

RELU = [node("MatMul", "x w", "h"), node("Relu", "h", "y")]
WEIGHT = {"w": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}


def test_rules_of_an_installed_package_are_found(tmp_path, monkeypatch):
    rules = {("my.house", "Half"): lambda op, x: op.call(torch.ops.aten.mul.Tensor, x, op.attribute("by", 0.5))}
    point = SimpleNamespace(name="house", load=lambda: rules)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == plugins.GROUP else [])
    path = saved(tmp_path / "net.onnx", [node("Half", "x", "y", domain="my.house", by=0.25)], {"x": ["n"]})
    assert pl.load(path)(torch.ones(2)).tolist() == [0.25, 0.25]


def test_a_table_of_rules_that_is_none_is_refused(tmp_path):
    path = saved(tmp_path / "net.onnx", RELU, {"x": ["n", 4]}, WEIGHT)
    with pytest.raises(PacklightError, match=r"operators: give a dict of \(domain, operator\)"):
        pl.load(path, operators={"Relu": torch.relu})


def test_inspect_shows_an_onnx_file(tmp_path):
    path = saved(tmp_path / "net.onnx", RELU, {"x": ["n", 4]}, WEIGHT)
    done = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert done.exit_code == 0 and next(layer["name"] for layer in json.loads(done.output)["layers"]) == "the h"


def test_convert_writes_a_file_that_gives_the_same_outputs(tmp_path):
    path = saved(tmp_path / "net.onnx", RELU, {"x": ["n", 4]}, WEIGHT)
    done = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "again.onnx")])
    assert done.exit_code == 0 and "gives the same outputs" in done.output
    assert pl.load(tmp_path / "again.onnx").notes == ()
    done = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "net.plm")])
    assert done.exit_code == 0 and pl.load(tmp_path / "net.plm").inputs[0].shape == ("n", 4)


def test_convert_leaves_no_file_where_the_runtime_is_wrong(tmp_path, monkeypatch):
    path = saved(tmp_path / "net.onnx", RELU, {"x": ["n", 4]}, WEIGHT)
    wrong = SimpleNamespace(ok=False, reason="off by 2 %, first at layer 'the h'")

    def written(model, out, **options):
        out.write_bytes(b"wrong")
        manifest_path(out).write_text("{}")
        return SimpleNamespace(path=out, target=OnnxRuntime(), manifest={"files": {out.name: {}}})

    monkeypatch.setattr("packlight.api.delivering.export", written)
    monkeypatch.setattr("packlight.api.delivering.check_parity", lambda *_: wrong)
    with pytest.raises(PacklightError, match="onnxruntime runs net wrongly: off by 2 %"):
        pl.convert(path, tmp_path / "again.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    with pytest.raises(PacklightError, match="name the file to write"):
        pl.convert(path, tmp_path / "folder")

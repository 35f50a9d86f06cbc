"""What a search hands back and writes."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest
from disks import mounted
from made_forms import BASELINE, form

from packlight.errors import PacklightError
from packlight.files import sha256
from packlight.measure import Measurement
from packlight.search.budget import Budget
from packlight.search.result import Form, Result, WorkFolder
from packlight.targets import Artifact, get


def result(*tried, budget="drop<=1%, latency:min", best=None) -> Result:
    wanted = Budget.parse(budget)
    chosen = best or tried[0]
    verdict = wanted.judge(chosen.measurements, BASELINE.measurements)
    return Result("net", "toy", "accuracy", "onnxruntime", wanted, BASELINE, chosen, list(tried), verdict,
                  {"cores": 2}, {"batch": 1, "threads": 1})  # fmt: skip


def shipped(place: Path, **changes) -> Form:
    """A form with a file of its own."""
    file = place / "int8.onnx"
    file.write_bytes(b"a network")
    manifest = {"packlight": 1, "name": "net", "target": "onnxruntime", "form": "float32", "versions": {},
                "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}},
                "inputs": [], "outputs": []}  # fmt: skip
    artifact = Artifact(file, get("onnxruntime"), manifest)
    return replace(form("int8", ratio=0.5, size=300_000), artifact=artifact, **changes)


def test_the_frontier_holds_what_nothing_else_beats_in_everything():
    fast, small = form("fast", ratio=0.5, size=400_000, drop=0.4), form("small", ratio=0.9, size=200_000, drop=0.4)
    beaten, refused = form("beaten", ratio=0.6, size=500_000, drop=0.5), form("bad", ratio=0.1, size=1, refused="no")
    assert [f.name for f in result(fast, small, beaten, refused).frontier] == ["baseline", "fast", "small"]


def test_the_ledger_has_the_keys_that_others_rely_on():
    ledger = result(form("int8", ratio=0.5), budget="latency<=60%, size<=2MB, size<=3MB").as_json()
    assert {"baseline", "best", "candidates", "budget", "met", "proven", "reason"} <= set(ledger)
    for one in (ledger["baseline"], ledger["best"], *ledger["candidates"]):
        assert {"recipe", "artifact", "measurements"} <= set(one)
        assert {"quality", "drop_points", "agreement", "latency_ms", "latency_ratio", "file_bytes", "file_ratio",
                "peak_memory_bytes"} <= set(one["measurements"])  # fmt: skip
        for measurement in one["measurements"].values():
            assert set(measurement) == {"value", "unit", "n", "low", "high"}
    assert ledger["limits"] == {"latency_ratio": 0.6, "latency_ms": pytest.approx(4.8), "file_bytes": 2_000_000}


def test_saving_writes_the_file_its_manifest_the_ledger_and_the_report(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    out = result(shipped(work)).save(tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == [
        "int8.onnx", "manifest.json", "report.html", "result.json", "run.cpp", "run.py",
    ]  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["measurements"]["file_bytes"]["value"] == 300_000
    assert manifest["measured_on"] == "validation"
    assert json.loads((out / "result.json").read_text())["best"]["artifact"] == "int8.onnx"
    assert Artifact.open(out).path.read_bytes() == b"a network"


def test_numbers_that_json_cannot_hold_become_null(tmp_path):
    best = shipped(tmp_path)
    best.measurements["parity_error"] = Measurement.exact(float("inf"), "relative")
    out = result(best).save(tmp_path / "out")
    assert json.loads((out / "result.json").read_text())["best"]["measurements"]["parity_error"]["value"] is None


@pytest.mark.parametrize("step", ["report", "manifest"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, step):
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("the last one")
    best = shipped(tmp_path)
    if step == "report":
        monkeypatch.setattr(Result, "report", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    else:
        best.artifact.path.write_bytes(b"other bytes")
    with pytest.raises(PacklightError):
        result(best).save(out)
    assert [p.name for p in out.iterdir()] == ["result.json"]
    assert (out / "result.json").read_text() == "the last one"


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    best = shipped(tmp_path)
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(PacklightError, match="No space left on device"):
            result(best).save(disk)
        assert not list(disk.iterdir())


def test_an_output_folder_under_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PacklightError, match=r"cannot write to folder .*Not a directory"):
        result(shipped(tmp_path)).save(tmp_path / "file" / "out")


def test_the_best_form_keeps_its_file_when_the_result_is_let_go(tmp_path):
    work = WorkFolder()
    best = shipped(work.path, folder=work)
    path = work.path
    del work
    found = result(best)
    kept = found.best
    del found, best
    gc.collect()
    assert kept.save(tmp_path / "out").path.read_bytes() == b"a network"
    del kept
    gc.collect()
    assert not path.exists()

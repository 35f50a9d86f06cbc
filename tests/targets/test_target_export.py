"""Export gives the whole file with its manifest, or one clear line and an untouched folder."""

import json
import tempfile

import numpy as np
import pytest
import torch
from faulty import Faulty, NotThere
from torch import nn

import packlight as pl
from packlight.errors import ChildFailure, MissingRuntime, PacklightError
from packlight.files import sha256
from packlight.targets import Artifact, Child, Runner, export, get, host, names, write

pytestmark = pytest.mark.usefixtures("faulty_is_known")
FAILURES = {
    "raise_an_error": (ChildFailure, "faulty: write failed: ValueError: operator Foo has no kernel"),
    "tell_the_user": (PacklightError, "this network needs the other form"),
    "write_nothing": (ChildFailure, "faulty: write made no file"),
}


@pytest.fixture(scope="module")
def model():
    return pl.load(nn.Linear(3, 2), torch.zeros(2, 3), name="net")


@pytest.fixture(scope="module")
def exporter():
    """A child that has loaded torch already."""
    with Child(Faulty()) as child:
        yield child


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files; nothing may stay in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_file_and_its_manifest_state_what_was_done(model, exporter, tmp_path, temporary):
    made = export(model, tmp_path / "net.bin", Faulty(), form="well", preprocessing={"mean": [0.5]}, exporter=exporter)
    assert Artifact.open(tmp_path / "net.bin") == made
    facts = json.loads((tmp_path / "net.manifest.json").read_text())
    assert facts["files"] == {"net.bin": {"bytes": 14, "sha256": sha256(tmp_path / "net.bin")}}
    assert facts["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 3]}]
    assert (facts["name"], facts["target"], facts["form"]) == ("net", "faulty", "well")
    assert (facts["versions"], facts["preprocessing"]) == ({"faulty": "1"}, {"mean": [0.5]})
    assert [s["name"] for s in facts["recipe"]] == [s.name for s in model.lineage]
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(("form", "kind", "told"), [(f, *x) for f, x in FAILURES.items()], ids=FAILURES)
def test_a_failing_converter_leaves_what_was_there(model, exporter, tmp_path, temporary, form, kind, told):
    old = export(model, tmp_path / "net.bin", Faulty(), exporter=exporter)
    with pytest.raises(kind, match=rf"^{told}$"):
        export(model, tmp_path / "net.bin", Faulty(), form=form, exporter=exporter)
    old.verify()
    assert Artifact.open(tmp_path / "net.bin") == old
    with pytest.raises(kind):
        export(model, tmp_path / "new.bin", Faulty(), form=form, exporter=exporter)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.bin", "net.manifest.json", "temporary"]
    assert not list(temporary.iterdir())


@pytest.mark.slow  # the contract of targets has a faster one
def test_a_crashing_converter_leaves_nothing(model, tmp_path, temporary):
    with pytest.raises(ChildFailure, match=r"^faulty: write crashed \(SIGSEGV\): libfaulty: assertion failed$"):
        export(model, tmp_path / "net.bin", Faulty(), form="segfault")
    assert [p.name for p in tmp_path.iterdir()] == ["temporary"]
    assert not list(temporary.iterdir())


def test_a_hanging_converter_ends_at_the_limit(model, tmp_path, temporary):
    with pytest.raises(ChildFailure, match=r"^faulty: write did not finish within 0.5 s"):
        export(model, tmp_path / "net.bin", Faulty(), form="hang", time_limit=0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["temporary"]
    assert not list(temporary.iterdir())


class NoChild:
    """Stands in for Child where work must not even start."""

    def __init__(self, *given, **settings):
        raise AssertionError("a child process was started")


REFUSED = {
    "form": ("net.bin", {"form": "int3"}, "has no form 'int3'; choose one of well, "),
    "suffix": ("net.onnx", {}, "faulty files end in '.bin', got 'net.onnx'"),
    "no_folder": ("missing/net.bin", {}, "folder .*missing does not exist"),
    "a_folder": ("folder.bin", {}, "it is a folder"),
    "preprocessing": ("net.bin", {"preprocessing": {"mean": np.zeros(3)}}, "preprocessing must be JSON values"),
}


@pytest.mark.parametrize(("name", "options", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_work_starts(model, tmp_path, monkeypatch, name, options, told):
    (tmp_path / "folder.bin").mkdir()
    monkeypatch.setattr(write, "Child", NoChild)
    with pytest.raises(PacklightError, match=told):
        export(model, tmp_path / name, Faulty(), **options)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.bin"]


def test_a_read_only_folder_is_refused_before_work_starts(model, read_only, monkeypatch):
    monkeypatch.setattr(write, "Child", NoChild)
    with pytest.raises(PacklightError, match=r"cannot write to folder .*Read-only file system"):
        export(model, read_only / "net.bin", Faulty())


def test_a_full_folder_keeps_what_was_there(model, exporter, small_disk):
    (small_disk / "rest").write_bytes(bytes(40_000))
    old = export(model, small_disk / "net.bin", Faulty(), exporter=exporter)
    (small_disk / "more").write_bytes(bytes(8_000))
    with pytest.raises(PacklightError, match=r"cannot write .*No space left"):
        export(model, small_disk / "net.bin", Faulty(), preprocessing={"table": "x" * 9000}, exporter=exporter)
    old.verify()
    assert sorted(p.name for p in small_disk.iterdir()) == ["more", "net.bin", "net.manifest.json", "rest"]


def test_a_full_temporary_folder_is_one_line(model, exporter, tmp_path, small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    (small_disk / "rest").write_bytes(bytes(61_000))
    with pytest.raises(PacklightError, match="No space left"):
        export(model, tmp_path / "net.bin", Faulty(), exporter=exporter)
    assert [p.name for p in small_disk.iterdir()] == ["rest"]


def test_no_temporary_folder_is_one_line(model, exporter, tmp_path, read_only, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(read_only))
    with pytest.raises(PacklightError, match="cannot make a temporary folder: Read-only file system; set TMPDIR"):
        export(model, tmp_path / "net.bin", Faulty(), exporter=exporter)
    with pytest.raises(PacklightError, match="cannot start a child process: Read-only file system"):
        Child(Faulty())


MISSING = {
    "export": lambda model, path: export(model, path, NotThere()),
    "public_export": lambda model, path: pl.export(model, path, target=NotThere()),
    "runner": lambda model, path: Runner(Artifact(path, NotThere(), {"files": {}})),
    "compress": lambda model, path: pl.compress(
        model, pl.Task("t", calibration=np.zeros((4, 3), np.float32)), target=NotThere()
    ),
}


@pytest.mark.parametrize("use", MISSING.values(), ids=MISSING)
def test_a_missing_runtime_comes_with_its_install_line(model, tmp_path, use):
    with pytest.raises(MissingRuntime, match=r"run: pip install 'notthere\[runtime\]'$"):
        use(model, tmp_path / "net.bin")
    assert not list(tmp_path.iterdir())


def test_targets_are_found_by_name():
    assert "onnxruntime" in names()
    assert get("faulty") == Faulty() != get("onnxruntime")
    assert get(target := Faulty()) is target


BROKEN = {
    "faulty:Missing": "has no attribute 'Missing'",
    "packlight_no_such_module:Target": "No module named 'packlight_no_such_module'",
    "faulty:Echo": "is no subclass of packlight.targets.Target",
}


@pytest.mark.parametrize(("address", "told"), BROKEN.items(), ids=BROKEN)
def test_a_plug_in_that_is_broken_is_one_line(monkeypatch, address, told):
    from importlib.metadata import EntryPoint

    found = [EntryPoint("plugin", address, "packlight.targets")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found if group == "packlight.targets" else [])
    assert names()[-1] == "plugin"
    with pytest.raises(PacklightError, match=told):
        get("plugin")


def test_an_unknown_target_is_answered_with_the_known_ones():
    with pytest.raises(PacklightError, match=r"no target 'abacus'; known are onnxruntime, .*faulty"):
        get("abacus")


def test_the_room_offers_what_it_names():
    from packlight import targets

    assert all(getattr(targets, name) for name in targets.__all__)
    assert targets.Child is host.Child
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        targets.nothing  # noqa: B018

"""What the tests of targets share: disks that are full or read-only, a target known by name, and exported files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import mounted

import packlight as pl
from packlight import targets
from packlight.targets import Artifact, export


@pytest.fixture
def faulty_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faulty target, under its name."""
    monkeypatch.setattr(targets, "_BUILT_IN", {**targets._BUILT_IN, "faulty": "faulty:Faulty"})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 64 kB."""
    with mounted(tmp_path / "small", "size=64k") as folder:
        yield folder


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that not even root can write to."""
    with mounted(tmp_path / "read_only", "ro") as folder:
        yield folder


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[pl.Model, Artifact]]:
    """(network, form) → its Model and the file exported for ONNX Runtime; each is made once, all in one child."""
    from small_networks import exporter, made, quantized

    target = targets.get("onnxruntime")
    folder, known = tmp_path_factory.mktemp("files"), {}

    def get(name: str, form: str) -> tuple[pl.Model, Artifact]:
        if (name, form) not in known:
            model = quantized(name) if form == "int8" else made(name)
            stored = "float32" if form == "int8" else form
            path = folder / f"{name}-{form}.onnx"
            known[name, form] = model, export(model, path, target, form=stored, exporter=exporter())
        return known[name, form]

    return get

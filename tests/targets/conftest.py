"""What the tests of targets share: file systems that are full or read-only, and a target that is known by name."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from packlight import targets


@pytest.fixture
def faulty_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faulty target, under its name."""
    monkeypatch.setattr(targets, "_BUILT_IN", {**targets._BUILT_IN, "faulty": "faulty:Faulty"})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
    ).returncode:  # fmt: skip
        pytest.skip("mounting a small file system takes root on Linux")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def read_only(small_disk: Path) -> Path:
    """A folder that not even root can write to."""
    (small_disk / "kept.txt").write_text("kept")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    return small_disk

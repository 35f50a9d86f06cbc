"""File systems that are full or read-only, for tests of what is left behind there."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A memory file system at a new folder, e.g. with "size=64k" or "ro"; a skip where mounting is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system takes root on Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)

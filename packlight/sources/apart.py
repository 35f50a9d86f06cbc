"""Reading a file in a process of its own, with limits: what a library does with a stranger's bytes harms nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from packlight.errors import ChildFailure, PacklightError

_LIMIT_S = 300


def read_apart(
    path: Path, module: str, folder: Path, environment: Mapping[str, str] = {}, python: str | Path = sys.executable
) -> None:
    """Run `python -m module folder`, which reads `path`. python: an interpreter that sees our packages. Raises
    PacklightError with its last words where it refuses, ChildFailure where it crashed or took more than five minutes.
    """
    where = os.pathsep.join(p for p in sys.path if p)
    try:
        done = subprocess.run(
            [str(python), "-P", "-m", module, str(folder)], capture_output=True, text=True, timeout=_LIMIT_S,
            check=False, env={**os.environ, "PYTHONPATH": where, **environment},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ChildFailure(f"{path}: reading it took more than {_LIMIT_S} s") from error
    if done.returncode < 0:
        raise ChildFailure(f"{path}: reading it crashed (signal {-done.returncode})", done.stderr)
    if done.returncode:
        said = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
        raise PacklightError(f"{path} is refused: {said[:400]}")


def limit_memory() -> None:
    """In the child: at most nine tenths of what is free now."""
    import contextlib

    import psutil

    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = psutil.Process().memory_info().rss + int(psutil.virtual_memory().available * 0.9)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))

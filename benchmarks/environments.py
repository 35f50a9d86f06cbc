"""A virtual environment for each peer library that cannot share ours: `.bench/envs/NAME`, of what
`benchmarks/environments/NAME.txt` pins on top of our packages (see `packlight.environments`)."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import ROOT, SCRATCH
from packlight.environments import Environments

REQUIREMENTS, ENVS = ROOT / "benchmarks" / "environments", SCRATCH / "envs"


def make(name: str, requirements: Path = REQUIREMENTS, envs: Path = ENVS) -> Path:
    """Make an environment unless it is there, and return its interpreter; ours where NAME has no requirements file.

    Raises PacklightError when the installation fails, and leaves the reason for `python_for`.
    """
    if not (requirements / f"{name}.txt").is_file():
        return Path(sys.executable)
    return Environments(requirements, envs).make(name, _told)


def python_for(name: str, requirements: Path = REQUIREMENTS, envs: Path = ENVS) -> Path:
    """The interpreter of an environment that `make` made, or a MissingRuntime that says why there is none."""
    if not (requirements / f"{name}.txt").is_file():
        return Path(sys.executable)
    return Environments(requirements, envs).interpreter(name)


def _told(name: str) -> None:
    print(f"making the environment {name} (once)", file=sys.stderr, flush=True)

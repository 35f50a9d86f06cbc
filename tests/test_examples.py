"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs_and_learns(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split("accuracy on test data ")[1].split(" ")[0]) > 50  # chance is 10
    if "zero" in done.stdout:
        assert "50% of the weights are zero" in done.stdout


def test_there_is_one_for_a_plain_loop_and_one_with_lightnings_methods() -> None:
    assert {p.stem for p in EXAMPLES} >= {"own_loop", "lightning_style"}

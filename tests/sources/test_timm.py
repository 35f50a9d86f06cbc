"""Folders of timm: the module's outputs, cut and written; a config of a stranger's runs nothing and takes no memory.

timm lies in a folder apart (`.venv/apart`, from `make test`), for the torchvision that it needs: its wheel is made for
another build of torch, and every package that sees it behaves otherwise. So these tests run in a process of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from timm_folders import FAST, NETWORKS

HERE = Path(__file__).parent
APART = Path(sys.prefix) / "apart"
pytestmark = pytest.mark.skipif(not (APART / "timm").is_dir(), reason="make test puts timm into .venv/apart")


def told(folder, *names):
    """Name of a network or a change of its config → what became of it."""
    paths = os.pathsep.join((str(APART), str(HERE.parents[1])))
    ran = subprocess.run(
        [sys.executable, HERE / "timm_folders.py", folder, *names],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {found["name"]: found for found in map(json.loads, ran.stdout.splitlines())}


def right(found):
    return found["difference"] < 1e-5 and 0.4 < found["left"] < 0.6 and found["files"] == ["config.json"]


@pytest.mark.zoo
def test_networks_of_timm_come_in_are_cut_and_go_out(tmp_path):
    found = told(tmp_path, *NETWORKS)
    assert set(found) == set(NETWORKS)
    assert [f for f in found.values() if not right(f)] == []


def test_a_network_comes_in_and_what_is_not_loaded_is_refused_in_one_line(tmp_path):
    wanted = {
        "unknown": "is none of timm",
        "source": "is none of timm",
        "classes": "does not fit ResNet: 2 of another shape",
        "huge": "asks for more parameters than its",
        "deep": "asks for more parameters than its",
        "argument": "cannot be opened: TypeError",
        "picture": "input_size [3, 1073741824, 8] is not",
        "number": "input_size 7 is not",
        "list": "are no JSON objects",
    }
    found = told(tmp_path, *FAST, *wanted)
    assert [found[n] for n in FAST if not right(found[n])] == []
    for change, words in wanted.items():
        assert words in found[change]["said"], (change, found[change])
        assert "\n" not in found[change]["said"]

"""Timing real files on the real runtime."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure import latency
from packlight.measure.latency import affordable_rounds, compare, machine_lock, thread_counts, throughput
from packlight.measure.machine import cores
from packlight.targets import Artifact, Child, Runner, export

INPUTS = (np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32),)


def exported(folder: Path, width: int, exporter: Child) -> Artifact:
    net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))
    model = pl.load(net, torch.zeros(2, 64))
    return export(model, folder / f"width{width}.onnx", exporter.target, exporter=exporter)


@pytest.fixture(scope="module")
def files(exporter, tmp_path_factory) -> dict[int, Artifact]:
    folder = tmp_path_factory.mktemp("files")
    return {width: exported(folder, width, exporter) for width in (64, 1024)}


@pytest.mark.slow
def test_the_same_file_twice_takes_the_same_time_and_a_heavier_one_longer(files):
    rounds = []
    light, again, heavy = compare([files[64], files[64], files[1024]], INPUTS, on_round=lambda: rounds.append(1))
    assert len(rounds) == 25
    # within a round both run on the same machine in the same state: a busy neighbour moves both
    assert light.ratio == type(light.ratio)(1.0, "×", 25, 1.0, 1.0)
    assert again.ratio.low < 1.15 and again.ratio.high > 0.87
    assert heavy.ratio.low > 2
    for timing in (light, again, heavy):
        measured = timing.as_measurements()
        assert measured["latency_ms"].n == 25
        assert 0 < measured["latency_ms"].low <= measured["latency_ms"].value <= measured["latency_ms"].high
        assert measured["latency_p95_ms"].value >= measured["latency_ms"].value
        assert measured["latency_p95_ms"].n > 100
        assert measured["cold_start_ms"].value > measured["latency_ms"].value
        assert measured["peak_memory_bytes"].value > 0
    # 1024² weights of 4 bytes must be in memory
    assert heavy.peak_memory.value - light.peak_memory.value > 2e6


def test_throughput_counts_samples_not_calls(files):
    rates = throughput(files[1024], INPUTS, [1])
    (timing,) = compare([files[1024]], INPUTS, rounds=3)
    assert rates[1].unit == "samples/s"
    assert rates[1].value == pytest.approx(4 * 1e3 / timing.latency.value, rel=0.5)


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity") or cores() < 2, reason="needs two processors to choose")
def test_a_runner_is_pinned_to_as_many_processors_as_it_has_threads(files):
    with Runner(files[64], 1) as runner:
        assert len(psutil.Process(runner._child.pid).cpu_affinity()) == 1
    assert cores() > 1, "the parent is not pinned"


@pytest.mark.parametrize(
    ("calls", "rounds"),
    [([0.001, 0.002], 25), ([0.3, 0.3], 25), ([0.7, 0.7], 21), ([30.0, 30.0], 9)],
    ids=["light", "0.6 s a round", "1.4 s a round", "very heavy"],
)
def test_heavy_files_get_fewer_rounds(calls, rounds):
    assert affordable_rounds(25, calls) == rounds
    assert affordable_rounds(3, calls) == 3


def test_threads_double_up_to_all_of_them():
    assert [thread_counts(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


WAITS = textwrap.dedent("""
    from packlight.measure.latency import machine_lock
    print("asking", flush=True)
    with machine_lock():
        print("timing", flush=True)
        input()
""")


@pytest.fixture
def own_lock(monkeypatch, tmp_path):
    """A lock of this test's own: the machine's may be held by a benchmark."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def another(own_lock):
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


def heard(process: subprocess.Popen[str]) -> tuple[list[str], threading.Thread]:
    lines: list[str] = []
    listener = threading.Thread(target=lambda: lines.extend(line.strip() for line in process.stdout), daemon=True)
    listener.start()
    return lines, listener


def test_another_process_waits_until_we_have_finished_timing(another):
    with machine_lock():
        assert another.stdout.readline().strip() == "asking"
        lines, listener = heard(another)
        listener.join(0.7)
        assert lines == []
    another.stdin.write("\n")
    another.stdin.close()
    listener.join(20)
    assert lines == ["timing"]


def test_a_killed_process_leaves_no_lock_behind(another):
    assert [another.stdout.readline().strip() for _ in range(2)] == ["asking", "timing"]
    another.kill()
    another.wait()
    with machine_lock():
        pass


def test_a_process_that_never_finishes_timing_is_an_error_in_the_end(another, monkeypatch):
    monkeypatch.setattr(latency, "_LOCK_PATIENCE_S", 0.2)
    assert [another.stdout.readline().strip() for _ in range(2)] == ["asking", "timing"]
    with (
        pytest.raises(PacklightError, match=r"another packlight process has been timing .*packlight\.lock"),
        machine_lock(),
    ):
        pass


def test_two_threads_of_one_process_do_not_time_at_once(own_lock):
    entered = threading.Event()

    def enter():
        with machine_lock():
            entered.set()

    with machine_lock():
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(10)
    assert entered.is_set()


@pytest.mark.parametrize("what", ["a link", "a folder"])
def test_a_lock_file_that_cannot_be_used_safely_is_not_used(tmp_path, monkeypatch, what):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    place, precious = tmp_path / "packlight.lock", tmp_path / "precious"
    precious.write_text("mine")
    place.symlink_to(precious) if what == "a link" else place.mkdir()
    with machine_lock():
        pass
    assert precious.read_text() == "mine"

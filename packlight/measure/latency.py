"""Latency on the real runtime, each file in a child process of its own, alternated in rounds.

A shared machine drifts, so two files are never timed one after the other: every round times a block of
each, in an order that alternates, and the ratio is taken within rounds. One measuring process at a time
holds a lock for the machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from packlight.errors import PacklightError
from packlight.measure import intervals
from packlight.measure.measurement import Measurement
from packlight.targets import Artifact, Runner

ROUNDS = 25
_LEAST_ROUNDS = 9  # with fewer, a median's interval is hardly one
_BLOCK_S = 0.03
_WARM_UP_S = 0.2
_PATIENCE_S = 30.0
_LOCK_PATIENCE_S = 600.0
_LOCK_POLL_S = 0.05


@dataclass(frozen=True)
class Latency:
    """Timings of one file. latency: median over rounds, ms a call. p95: ms. ratio: to the first file timed with
    it, < 1 is faster. cold_start: opening the file and the first call, ms. peak_memory: bytes that opening and
    running added to a fresh process. rounds: each round's median, seconds."""

    latency: Measurement
    p95: Measurement
    ratio: Measurement
    cold_start: Measurement
    peak_memory: Measurement
    rounds: tuple[float, ...]

    def ratio_to(self, other: Latency) -> Measurement:
        """Median over rounds of this file's time by that of another of the same `compare`; < 1 is faster."""
        return intervals.median((np.array(self.rounds) / np.array(other.rounds)).tolist(), "×")

    def as_measurements(self) -> dict[str, Measurement]:
        """By the names that ledgers use."""
        return {
            "latency_ms": self.latency, "latency_p95_ms": self.p95, "latency_ratio": self.ratio,
            "cold_start_ms": self.cold_start, "peak_memory_bytes": self.peak_memory,
        }  # fmt: skip


def compare(
    artifacts: Sequence[Artifact],
    inputs: tuple[Any, ...],
    *,
    threads: int = 1,
    rounds: int = ROUNDS,
    on_round: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """Time several files against the first on the same inputs. threads: of the runtime, pinned.

    rounds: each times a block of calls over 30 ms, at least one, of every file. Heavy files get fewer, so that
    all rounds together take about half a minute, but never fewer than nine (or `rounds`, where that is less).
    """
    with machine_lock(), contextlib.ExitStack() as stack:
        runners = [stack.enter_context(Runner(a, threads, inputs)) for a in artifacts]
        calls = [float(np.median(runner.time(inputs, _WARM_UP_S, 1))) for runner in runners]
        rounds = affordable_rounds(rounds, calls)
        blocks: list[list[list[float]]] = [[] for _ in runners]
        for i in range(rounds):
            order = range(len(runners)) if i % 2 == 0 else reversed(range(len(runners)))
            for j in order:
                blocks[j].append(runners[j].time(inputs, _BLOCK_S, 1))
            on_round()
        memory = [runner.peak_memory() for runner in runners]
    medians = [np.array([np.median(block) for block in each]) for each in blocks]
    return [
        Latency(
            latency=intervals.median((1e3 * mine).tolist(), "ms"),
            p95=_p95(each),
            ratio=intervals.median((mine / medians[0]).tolist(), "×"),
            cold_start=Measurement.exact(1e3 * runner.cold_start_s, "ms"),
            peak_memory=Measurement.exact(peak, "bytes"),
            rounds=tuple(mine.tolist()),
        )
        for runner, each, mine, peak in zip(runners, blocks, medians, memory, strict=True)
    ]


def affordable_rounds(rounds: int, calls: Sequence[float]) -> int:
    """How many rounds of a block of each file fit into half a minute. calls: seconds of one call of each."""
    one = sum(max(_BLOCK_S, call) for call in calls)
    return min(rounds, max(_LEAST_ROUNDS, int(_PATIENCE_S / one)))


def throughput(artifact: Artifact, inputs: tuple[Any, ...], threads: Sequence[int]) -> dict[int, Measurement]:
    """Samples a second of back-to-back calls, for each number of threads."""
    found = {}
    with machine_lock():
        for count in threads:
            with Runner(artifact, count, inputs) as runner:
                runner.time(inputs, _WARM_UP_S, 1)
                calls = [float(np.median(runner.time(inputs, _BLOCK_S, 1))) for _ in range(_LEAST_ROUNDS)]
            found[count] = intervals.median([len(inputs[0]) / call for call in calls], "samples/s")
    return found


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, … and `most`."""
    return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})


def _p95(blocks: Sequence[Sequence[float]]) -> Measurement:
    """95th percentile of all calls; its interval by resampling whole blocks."""
    arrays = [1e3 * np.asarray(b) for b in blocks]
    everything = np.concatenate(arrays)
    low, high = intervals.resampled(
        len(arrays), lambda index: float(np.quantile(np.concatenate([arrays[i] for i in index]), 0.95))
    )
    return Measurement(float(np.quantile(everything, 0.95)), "ms", len(everything), low, high)


@contextlib.contextmanager
def machine_lock() -> Iterator[None]:
    """Wait until no other packlight process on this machine is timing, then keep others waiting.

    Where the system has no file locks (Windows), or the lock file cannot be opened, timings are taken without.
    Raises PacklightError when another process has not finished within ten minutes.
    """
    if not importlib.util.find_spec("fcntl"):
        yield
        return
    handle = _lock_file()
    if handle is None:
        yield
        return
    try:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while not _locked(handle):
            if time.monotonic() > deadline:
                raise PacklightError(
                    f"another packlight process has been timing for {_LOCK_PATIENCE_S / 60:.0f} minutes and keeps this "
                    f"one waiting; end it (it holds {_lock_path()})"
                )
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Take the lock if nobody has it."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_path() -> Path:
    return Path(tempfile.gettempdir()) / "packlight.lock"


def _lock_file() -> int | None:
    """The file that all users' packlight processes lock; another user's need only be readable."""
    path = _lock_path()
    safely = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    for flags in (safely, safely | os.O_CREAT | os.O_EXCL, safely):
        with contextlib.suppress(OSError):
            return os.open(path, flags, 0o644)
    return None

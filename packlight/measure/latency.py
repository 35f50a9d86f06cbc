"""Latency on the real runtime, each file in a child process of its own, alternated in rounds.

A shared machine drifts, so two files are never timed one after the other: every round times a block of
each, in an order that alternates, and the ratio is taken within rounds. One measuring process at a time
holds a lock for the machine.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from packlight.measure import intervals
from packlight.measure.measurement import Measurement
from packlight.targets.artifact import Artifact, Runner

_BLOCK_S = 0.03
_WARM_UP_S = 0.2
_LEAST_RUNS = 3


@dataclass(frozen=True)
class Latency:
    """Timings of one file. latency: median over rounds, ms a call. p95: ms. ratio: to the first file timed with
    it, < 1 is faster. cold_start: opening the file and the first call, ms. peak_memory: bytes that opening and
    running added to a fresh process."""

    latency: Measurement
    p95: Measurement
    ratio: Measurement
    cold_start: Measurement
    peak_memory: Measurement

    def as_measurements(self) -> dict[str, Measurement]:
        return {
            "latency_ms": self.latency, "latency_p95_ms": self.p95, "latency_ratio": self.ratio,
            "cold_start_ms": self.cold_start, "peak_memory_bytes": self.peak_memory,
        }  # fmt: skip


def compare(
    artifacts: Sequence[Artifact],
    inputs: tuple[Any, ...],
    *,
    threads: int = 1,
    rounds: int = 25,
    on_round: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """Time several files against the first on the same inputs. threads: of the runtime, pinned.

    rounds: >= 3; each times a block of at least three calls and 30 ms of every file.
    """
    with machine_lock(), contextlib.ExitStack() as stack:
        runners = [stack.enter_context(Runner(a, threads, inputs)) for a in artifacts]
        for runner in runners:
            runner.time(inputs, _WARM_UP_S)
        memory = [runner.peak_memory() for runner in runners]
        blocks: list[list[list[float]]] = [[] for _ in runners]
        for i in range(rounds):
            order = range(len(runners)) if i % 2 == 0 else reversed(range(len(runners)))
            for j in order:
                blocks[j].append(runners[j].time(inputs, _BLOCK_S, _LEAST_RUNS))
            on_round()
    medians = [np.array([np.median(block) for block in each]) for each in blocks]
    return [
        Latency(
            latency=intervals.median((1e3 * mine).tolist(), "ms"),
            p95=_p95(each),
            ratio=intervals.median((mine / medians[0]).tolist(), "×"),
            cold_start=Measurement.exact(1e3 * runner.cold_start_s, "ms"),
            peak_memory=Measurement.exact(peak, "bytes"),
        )
        for runner, each, mine, peak in zip(runners, blocks, medians, memory, strict=True)
    ]


def throughput(artifact: Artifact, inputs: tuple[Any, ...], threads: Sequence[int]) -> dict[int, Measurement]:
    """Samples a second of back-to-back calls, for each number of threads."""
    found = {}
    with machine_lock():
        for count in threads:
            with Runner(artifact, count, inputs) as runner:
                runner.time(inputs, _WARM_UP_S)
                rates = [len(inputs[0]) / float(np.median(runner.time(inputs, _BLOCK_S))) for _ in range(9)]
            found[count] = intervals.median(rates, "samples/s")
    return found


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
    """Wait until no other packlight process of this user is timing, then keep others waiting.

    Where the system has no file locks (Windows), timings are taken without.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    user = os.getuid()
    path = Path(tempfile.gettempdir()) / f"packlight-{user}.lock"
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

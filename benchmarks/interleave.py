"""Timing several runners against one another: rounds in alternating order, ratios within rounds.

The shared machine drifts, so two forms are only ever compared within a round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from benchmarks.process import WorkerFailure
from packlight.measure import Measurement, intervals
from packlight.measure.latency import affordable_rounds, machine_lock

ROUNDS = {True: 25, False: 51}  # quick, full
BLOCK_S = 0.03
_WARM_UP_S = 0.2


class Times(Protocol):
    """What can be timed: seconds of each call over a block of `seconds`, None when it cannot run."""

    def time(self, batch: int, seconds: float) -> list[float] | None: ...


def interleave(
    runners: Mapping[str, Times], batch: int, rounds: int, on_failure: Callable[[str, WorkerFailure], None]
) -> dict[str, list[float]]:
    """Median seconds a call, one a round, of every runner that could be timed to the end.

    Heavy networks get fewer rounds (packlight.measure.latency.affordable_rounds). One that fails is reported and
    left out; the others go on.
    """
    blocks: dict[str, list[float]] = {}

    def block(name: str, seconds: float) -> float | None:
        try:
            times = runners[name].time(batch, seconds)
        except WorkerFailure as failure:
            on_failure(name, failure)
            times = None
        return None if times is None else float(np.median(times))

    with machine_lock():
        calls = {name: call for name in list(runners) if (call := block(name, _WARM_UP_S)) is not None}
        blocks = {name: [] for name in calls}
        for i in range(affordable_rounds(rounds, list(calls.values())) if calls else 0):
            for name in list(blocks) if i % 2 == 0 else list(reversed(blocks)):
                if (found := block(name, BLOCK_S)) is None:
                    del blocks[name]
                else:
                    blocks[name].append(found)
    return blocks


def latency(rounds: Sequence[float]) -> Measurement:
    """Median over rounds, in ms a call."""
    return intervals.median([1e3 * seconds for seconds in rounds], "ms")


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> Measurement:
    """Median over the rounds that both were timed in, of mine by theirs; < 1 is faster."""
    return intervals.median((np.asarray(mine) / np.asarray(theirs)).tolist(), "×")

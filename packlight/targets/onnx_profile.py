"""How long each operator of a file takes, from ONNX Runtime's profiler."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

_WARM_UP = 3
_LEAST, _MOST = 10, 200  # runs; the profiler keeps every event of all of them
_EVENT = "_kernel_time"
_GIVEN = re.compile(r"(_nchwc|_token_\d+)+$")  # what the runtime appends to names of operators that it rewrites


def operator_times(
    run: Callable[[Sequence[Any]], Any], end: Callable[[], Path], inputs: Sequence[Any], seconds: float
) -> dict[str, float]:
    """Median seconds of each operator, by its name in the file; those that the runtime added have names of its own.

    run: one call. end: ends the profile; the file that it wrote.
    """
    deadline = time.perf_counter() + seconds
    runs = 0
    while runs < _WARM_UP + _LEAST or (runs < _MOST and time.perf_counter() < deadline):
        run(inputs)
        runs += 1
    return read(json.loads(end().read_text(encoding="utf-8")))


def read(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The profiler's events as median seconds by operator name. Operators of one name are summed: a runtime may make
    two of one."""
    taken: dict[tuple[str, str], list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
            name = _GIVEN.sub("", event["name"].removesuffix(_EVENT))
            taken.setdefault((name, event["args"]["node_index"]), []).append(event["dur"])
    found: dict[str, float] = {}
    for (name, _), durations in taken.items():
        kept = durations[_WARM_UP:] if len(durations) > _WARM_UP else durations
        found[name] = found.get(name, 0.0) + 1e-6 * median(kept)
    return found

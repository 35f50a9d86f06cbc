"""Where the time of a file goes, operator by operator and layer by layer, on its runtime.

A profiler takes time of its own at every operator, and much where operators are small: what all of them take together
beyond an undisturbed call is taken off again in equal parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from packlight.measure.latency import machine_lock
from packlight.targets import Artifact, Runner

_ROUNDS = 3
_SECONDS = 0.3
_LEFT = 0.1  # share of an operator's time that is its own at the least


def profiles(artifacts: Sequence[Artifact], inputs: tuple[Any, ...], *, threads: int = 1) -> list[dict[str, float]]:
    """Seconds of every operator by its name in the file, for each of the files, taken in turns: of several rounds
    the least, since a busy machine only ever adds."""
    with machine_lock(), contextlib.ExitStack() as stack:
        runners = [stack.enter_context(Runner(a, threads, inputs)) for a in artifacts]
        rounds: list[list[dict[str, float]]] = [[] for _ in runners]
        calls = [float("inf")] * len(runners)
        for _ in range(_ROUNDS):
            for i, runner in enumerate(runners):
                rounds[i].append(runner.profile(inputs, _SECONDS))
                calls[i] = min(calls[i], float(np.median(runner.time(inputs, _SECONDS / 3, 3))))
    return [undisturbed(least(seen), call) for seen, call in zip(rounds, calls, strict=True)]


def least(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each operator's least time over rounds."""
    return {name: min(r[name] for r in rounds if name in r) for name in dict.fromkeys(n for r in rounds for n in r)}


def undisturbed(operators: Mapping[str, float], call: float) -> dict[str, float]:
    """Operators' times without what the profiler added. call: seconds of a call that was not profiled."""
    if not operators:
        return {}
    added = max(0.0, sum(operators.values()) - call) / len(operators)
    return {name: max(seconds - added, _LEFT * seconds) for name, seconds in operators.items()}


def by_layer(operators: Mapping[str, float], layers: Iterable[str]) -> dict[str, float]:
    """Seconds of each layer: of the operators that bear its name, or its name and a part's ("layer/MatMul"). Layers
    that became a part of another one's operator are missing, and so are operators that no layer asked for."""
    known = set(layers)
    found: dict[str, float] = {}
    for name, seconds in operators.items():
        layer = name if name in known else name.rpartition("/")[0]
        if layer in known:
            found[layer] = found.get(layer, 0.0) + seconds
    return found

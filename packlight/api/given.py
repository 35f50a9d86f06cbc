"""What callers of the public functions may give for a task and a target."""

from __future__ import annotations

import os
from collections.abc import Sequence

from packlight import targets
from packlight.model.numerics import Numerics, common
from packlight.task import Task

TaskLike = Task | str | os.PathLike[str]
TargetLike = str | targets.Target


def numerics_of(target: TargetLike | Sequence[TargetLike]) -> Numerics:
    """Of a target, or what all of several compute."""
    several = [target] if isinstance(target, str | targets.Target) else list(target)
    return common([targets.get(t).numerics for t in several])


def task_of(task: TaskLike) -> Task:
    return task if isinstance(task, Task) else Task.named(os.fspath(task))

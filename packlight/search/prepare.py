"""What a search checks before any work starts, and what it then stands on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from packlight.errors import PacklightError
from packlight.measure.machine import cores
from packlight.measure.quality import check_fit, torch_runner, workload_inputs
from packlight.model import Model, matching, patterns_of
from packlight.model.finite import check_finite
from packlight.passes.fold import fold
from packlight.passes.quantize import Quantization
from packlight.task import ArrayData, Task
from packlight.task.metrics import scored

_CHUNK = 64


@dataclass(frozen=True)
class Ground:
    """model: folded, in eval mode. task: its calibration data held in memory. split: the data that choices look at.
    inputs: real ones of the workload's batch size. exclude: layer patterns that stay in float."""

    model: Model
    task: Task
    split: str
    inputs: tuple[Any, ...]
    exclude: tuple[str, ...]


def prepare(model: Model, task: Task, exclude: str | Sequence[str] = ()) -> Ground:
    """Refuse what cannot work: sick weights, unknown layers, data that are missing, sick or do not fit.

    Nothing is read from test data that a search may not see: of those in memory, shapes and targets are checked.
    """
    check_finite(model)
    folded = fold(model)
    if exclude:
        matching(list(folded.layers()), exclude)
    _check_workload(model, task)
    split = "validation" if task.validation is not None else "test"
    task = replace(task, calibration=task.data("calibration").take(Quantization().samples))
    inputs = workload_inputs(task, split, task.workload.batch)
    for name in dict.fromkeys(["calibration", split, *_in_memory(task, "test")]):
        first = workload_inputs(task, name, task.workload.batch)
        try:
            check_fit(model, first)
        except PacklightError as error:
            raise PacklightError(f"the {name} data of task {task.name!r}: {error}") from error
    _check_targets(folded, task, split, inputs)
    return Ground(folded, task, split, inputs, patterns_of(exclude))


def _in_memory(task: Task, split: str) -> list[str]:
    return [split] if isinstance(getattr(task, split), ArrayData) else []


def _check_workload(model: Model, task: Task) -> None:
    fixed, batch, threads = model.fixed_batch, task.workload.batch, task.workload.threads
    if fixed not in (None, batch):
        raise PacklightError(
            f"{model.name} has a fixed batch of {fixed}, the workload asks for {batch}; set Workload(batch={fixed})"
        )
    if threads > cores():
        raise PacklightError(
            f"the workload asks for {threads} threads, this process may use {cores()} processors; "
            f"set Workload(threads={cores()}) or fewer"
        )


def _check_targets(model: Model, task: Task, split: str, inputs: tuple[Any, ...]) -> None:
    """Have the metric read the targets against a first answer of the network, so that bad labels show now."""
    outputs = torch_runner(model)(*inputs)
    for name in dict.fromkeys([split, *_in_memory(task, "test")]):
        for targets in _targets(task, name):
            answers = tuple(_repeated(o, len(targets), len(inputs[0])) for o in outputs)
            try:
                scored(task.measure_with, answers, targets)
            except PacklightError as error:
                raise PacklightError(f"the {name} data of task {task.name!r}: {error}") from error


def _targets(task: Task, split: str) -> Iterator[Any]:
    """All targets of a split in memory, the first of any other, in chunks."""
    data = task.data(split)
    known = data if isinstance(data, ArrayData) else data.take(_CHUNK)
    if known.targets is None:
        raise PacklightError(f"the {split} data of task {task.name!r} has no targets to compare with")
    for start in range(0, len(known), _CHUNK):
        yield known.targets[start : start + _CHUNK]


def _repeated(output: Any, count: int, batch: int) -> Any:
    """The first answer of a batch, as if it were the answer to `count` samples."""
    if output.ndim == 0 or len(output) != batch:
        return output
    return np.broadcast_to(output[:1], (count, *output.shape[1:]))

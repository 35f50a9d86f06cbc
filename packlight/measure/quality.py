"""How good a network's answers are, and how they compare with another's on the same samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.measure import intervals
from packlight.measure.machine import cores
from packlight.measure.measurement import Measurement
from packlight.model import Model
from packlight.targets import Artifact, Runner
from packlight.task import Metric, Task
from packlight.task.metrics import agreement_rows, decisions, scored

Array = NDArray[Any]
_BATCH = 64


class Runs(Protocol):
    """Anything that maps numpy inputs to a tuple of numpy outputs."""

    def __call__(self, *inputs: Array) -> tuple[Array, ...]: ...


@dataclass(frozen=True)
class Scores:
    """Everything that comparing needs. rows: per-sample statistics [n, k]. decided: the decisions [n, …].
    metric: what the rows are of."""

    rows: Array
    decided: Array
    metric: Metric

    @property
    def measurement(self) -> Measurement:
        """The metric's value with its interval."""
        return intervals.quality(self.rows, self.metric)

    def drop_from(self, before: Scores) -> Measurement:
        """How much worse these scores are than `before`, paired; exactly 0 for the same scores."""
        if before is self:
            return Measurement.exact(0.0, "points" if self.metric.unit == "%" else self.metric.unit, len(self.rows))
        _check_paired(self, before)
        return intervals.drop(before.rows, self.rows, self.metric)

    def agreement_with(self, other: Scores) -> Measurement:
        """Share of samples on which both decide alike, in percent; exactly 100 for the same scores."""
        if other is self:
            return Measurement.exact(100.0, "%", len(self.rows))
        _check_paired(self, other)
        return intervals.share(agreement_rows(self.decided, other.decided))


def evaluate(
    network: Model | Runs, task: Task, split: str = "test", on_batch: Callable[[int], None] = lambda n: None
) -> Scores:
    """Run a Model or a Runner over a split of a task and score every sample, in order.

    A network with a fixed batch size is fed that size, its last batch filled up by repetition.
    """
    data = task.data(split)
    run = torch_runner(network) if isinstance(network, Model) else network
    fixed = getattr(network, "fixed_batch", None)
    rows: list[Array] = []
    decided: list[Array] = []
    for batch in data.batches(fixed or _BATCH):
        if batch.targets is None:
            raise PacklightError(f"the {split} data of task {task.name!r} has no targets to compare with")
        outputs = _without_filling(run(*_filled(batch.inputs, fixed)), len(batch), fixed)
        rows.append(scored(task.measure_with, outputs, batch.targets))
        decided.append(decisions(outputs))
        on_batch(len(batch))
    if not rows:
        raise PacklightError(f"the {split} data of task {task.name!r} is empty")
    return Scores(_joined(rows), _joined(decided), task.measure_with)


def evaluate_artifact(artifact: Artifact, task: Task, split: str = "test") -> Scores:
    """Score a file on its runtime, in a child process that may use every core."""
    with Runner(artifact, cores()) as runner:
        return evaluate(runner, task, split)


def in_pieces(runner: Runner, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """A file's answers to a batch of any size, in pieces where it insists on one; the last is filled by repetition."""
    fixed, n = runner.fixed_batch, len(inputs[0]) if inputs and inputs[0].ndim else 0
    if fixed is None or fixed == n:
        return runner(*inputs)
    parts = []
    for start in range(0, n, fixed):
        piece = tuple(x[start : start + fixed] for x in inputs)
        parts.append(_without_filling(runner(*_filled(piece, fixed)), len(piece[0]), fixed))
    return tuple(np.concatenate(o) if o[0].ndim else o[0] for o in zip(*parts, strict=True))


def torch_runner(model: Model) -> Runs:
    """A Model, in eval mode, as a function of numpy arrays."""
    import torch

    model = model.copy().eval() if model.training else model

    def run(*inputs: Array) -> tuple[Array, ...]:
        check_fit(model, inputs)
        tensors = [torch.from_numpy(np.require(x, requirements=("C", "W"))) for x in inputs]
        with torch.inference_mode():
            outputs = model.flat(*tensors)
        return tuple((o.float() if o.dtype == torch.bfloat16 else o).numpy() for o in outputs)

    return run


def check_fit(model: Model, inputs: tuple[Array, ...]) -> None:
    """Raise PacklightError unless arrays have the shapes and dtypes that a Model takes."""
    model.check_inputs([x.shape for x in inputs], [str(x.dtype) for x in inputs])


def workload_inputs(task: Task, split: str, batch: int) -> tuple[Array, ...]:
    """Real inputs of a batch size, the first of a split; short data is repeated."""
    return _filled(task.data(split).take(batch).select(slice(0, batch)).inputs, batch)


def workload_dims(model: Model, task: Task) -> dict[str, int]:
    """The size of a Model's batch in a task's workload, for files that take one size only; none where it is fixed."""
    shape = model.inputs[0].shape if model.inputs else ()
    return {shape[0]: task.workload.batch} if shape and isinstance(shape[0], str) else {}


def _filled(inputs: tuple[Array, ...], size: int | None) -> tuple[Array, ...]:
    if size is None or len(inputs[0]) == size:
        return inputs
    index = np.arange(size) % len(inputs[0])
    return tuple(x[index] for x in inputs)


def _without_filling(outputs: tuple[Array, ...], wanted: int, fixed: int | None) -> tuple[Array, ...]:
    if fixed is None or fixed == wanted:
        return outputs
    return tuple(o[:wanted] if o.ndim and len(o) == fixed else o for o in outputs)


def _joined(parts: list[Array]) -> Array:
    try:
        return np.concatenate(parts)
    except ValueError:
        shapes = " and ".join(sorted({str(list(p.shape[1:])) for p in parts})[:3])
        raise PacklightError(
            f"the network's outputs differ in shape from batch to batch ({shapes} a sample); pad the data to one size"
        ) from None


def _check_paired(mine: Scores, other: Scores) -> None:
    if len(mine.rows) != len(other.rows) or mine.decided.shape != other.decided.shape:
        raise PacklightError(
            f"only answers to the same samples can be compared: shapes {list(mine.decided.shape)} "
            f"and {list(other.decided.shape)}"
        )

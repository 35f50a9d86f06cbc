"""How good a network's answers are, and how they compare with another's on the same samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.measure import intervals
from packlight.measure.measurement import Measurement
from packlight.model import Model
from packlight.task import Data, Metric, Task
from packlight.task.metrics import agreement_rows, decisions

Array = NDArray[Any]
_BATCH = 64


class Runs(Protocol):
    """Anything that maps numpy inputs to a tuple of numpy outputs."""

    def __call__(self, *inputs: Array) -> tuple[Array, ...]: ...


@dataclass(frozen=True)
class Scores:
    """Everything that comparing needs. rows: per-sample statistics [n, k]. decided: the decisions [n, …].

    first: the first output of the first batch, for parity. metric: what the rows are of.
    """

    rows: Array
    decided: Array
    first: tuple[Array, ...]
    metric: Metric

    @property
    def measurement(self) -> Measurement:
        """The metric's value with its interval."""
        return intervals.quality(self.rows, self.metric)

    def drop_from(self, before: Scores) -> Measurement:
        """How much worse these scores are than `before`, paired."""
        return intervals.drop(before.rows, self.rows, self.metric)

    def agreement_with(self, other: Scores) -> Measurement:
        """Share of samples on which both decide alike, in percent."""
        return intervals.share(agreement_rows(self.decided, other.decided))


def evaluate(
    network: Model | Runs, task: Task, split: str = "test", on_batch: Callable[[int], None] = lambda n: None
) -> Scores:
    """Run a Model or a Runner over a split of a task and score every sample.

    A network with a fixed batch size is fed that size, its last batch filled up by repetition.
    """
    data, metric = task.data(split), task.measure_with
    run = torch_runner(network) if isinstance(network, Model) else network
    fixed = fixed_batch(network) if isinstance(network, Model) else getattr(network, "fixed_batch", None)
    rows, decided, first = [], [], None
    for batch in data.batches(fixed or _BATCH):
        if batch.targets is None:
            raise PacklightError(f"the {split} data of task {task.name!r} has no targets to compare with")
        outputs = tuple(o[: len(batch)] for o in run(*_filled(batch.inputs, fixed)))
        rows.append(metric.per_sample(outputs, batch.targets))
        decided.append(decisions(outputs))
        first = first or outputs
        on_batch(len(batch))
    if first is None:
        raise PacklightError(f"the {split} data of task {task.name!r} is empty")
    return Scores(np.concatenate(rows), np.concatenate(decided), first, metric)


def torch_runner(model: Model) -> Runs:
    """A Model, in eval mode, as a function of numpy arrays."""
    import torch

    model = model.copy().eval() if model.training else model

    def run(*inputs: Array) -> tuple[Array, ...]:
        tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in inputs]
        check_fit(model, inputs)
        with torch.inference_mode():
            return tuple(o.numpy() for o in model.flat(*tensors))

    return run


def check_fit(model: Model, inputs: tuple[Array, ...]) -> None:
    """Raise PacklightError unless arrays have the shapes and dtypes that a Model takes."""
    model.check_inputs([x.shape for x in inputs])
    for spec, x in zip(model.inputs, inputs, strict=True):
        if x.dtype != np.dtype(spec.dtype):
            raise PacklightError(f"input {spec.name!r} is {x.dtype}, the model takes {spec.dtype}; convert the data")


def fixed_batch(model: Model) -> int | None:
    """The batch size that a Model insists on, None when it takes any."""
    axis = model.inputs[0].shape[0] if model.inputs and model.inputs[0].shape else None
    return axis if isinstance(axis, int) else None


def workload_inputs(task: Task, split: str, batch: int) -> tuple[Array, ...]:
    """Real inputs of the workload's batch size; short data is repeated."""
    data: Data = task.data(split)
    return _filled(data.take(batch).select(slice(0, batch)).inputs, batch)


def _filled(inputs: tuple[Array, ...], size: int | None) -> tuple[Array, ...]:
    if size is None or len(inputs[0]) == size:
        return inputs
    index = np.arange(size) % len(inputs[0])
    return tuple(x[index] for x in inputs)

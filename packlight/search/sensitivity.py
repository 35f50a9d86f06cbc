"""Layer sensitivities on a task's data: which samples and which loss each measure takes."""

from __future__ import annotations

from pathlib import Path

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Format
from packlight.passes.batches import batches_of
from packlight.passes.sensitivity import service
from packlight.passes.sensitivity.change import distance_for
from packlight.passes.sensitivity.table import Sensitivities
from packlight.task import Task
from packlight.train.losses import task_loss

_BATCH = 32


def sensitivity(
    model: Model,
    task: Task,
    measure: str,
    samples: int,
    form: Format,
    probes: int = 16,
    seed: int = 0,
    cache: Path | None = None,
) -> Sensitivities:
    """A measure of every layer. samples: >= 1. form: of quantized weights. cache: a folder, None keeps nothing."""
    if samples < 1:
        raise PacklightError(f"sensitivity needs samples >= 1, got {samples}")
    how = service.Measuring(measure, probes, seed, form, distance_for(task, model))
    if measure not in service.NEEDS_LOSS:
        data = batches_of(model, task.data("calibration"), samples, _BATCH)
        return service.sensitivity(model, [(x, None) for x, _ in data], how, cache=cache)
    data = batches_of(model, task.data("train"), samples, _fewest(model) if measure == "fisher" else _BATCH)
    name = task.loss if isinstance(task.loss, str) else ""
    return service.sensitivity(model, data, how, task_loss(task.loss), loss_name=name, cache=cache)


def _fewest(model: Model) -> int:
    """The smallest batch that a network takes."""
    axis = model.inputs[0].shape[0] if model.inputs and model.inputs[0].shape else 1
    return axis if isinstance(axis, int) else model.limits.get(axis, (1, 1))[0]

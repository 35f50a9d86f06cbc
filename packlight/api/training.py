"""Networks trained: further, after a teacher, for other classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from packlight.api.given import TaskLike, task_of
from packlight.errors import PacklightError
from packlight.model import Model
from packlight.search.budget import parse_time
from packlight.search.distill import Distilled
from packlight.search.distill import distill as distill_beside
from packlight.search.transfer import TransferResult
from packlight.search.transfer import transfer as transfer_in_modes
from packlight.sources import from_module
from packlight.train import Distillation, Feature, Fit, Hook, Progress, Transfer, fit


def finetune(
    model: Model,
    task: TaskLike,
    *,
    epochs: float | None = None,
    learning_rate: float | None = None,
    teacher: Model | Callable[..., Any] | None = None,
    distillation: Distillation = Distillation(),
    options: Fit = Fit(),
    hooks: Sequence[Hook] = (),
    checkpoint: str | Path | None = None,
    log: str | Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Model:
    """Train a copy of a Model on the task's training data, with distillation when a teacher is given. A quantized
    Model is trained through its quantizers.

    epochs and learning_rate overrule those of `options` (1 and 0.01 by default). hooks: what else joins the run
    (packlight.train). checkpoint: a file that a killed run resumes from. log: a JSON-lines file of losses and scores.
    """
    chosen = replace(
        options, epochs=options.epochs if epochs is None else epochs,
        learning_rate=options.learning_rate if learning_rate is None else learning_rate,
    )  # fmt: skip
    return fit(
        model, task_of(task), chosen, teacher=teacher, distillation=distillation, hooks=hooks, checkpoint=checkpoint,
        log=log, on_step=on_step,
    )  # fmt: skip


def distill(
    teacher: Model,
    task: TaskLike,
    *,
    student: str | Model = "resnet8",
    width: float = 1.0,
    options: Fit = Fit(),
    distillation: Distillation = Distillation(),
    features: Sequence[Feature] = (),
    control: bool = True,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Distilled:
    """Train a small network after a large one, and beside it the control: the same without the teacher.

    student: a Model, or one of packlight's by name (`packlight.students.names()`) with a width, made for the teacher's
    inputs and classes from the seed in `options`. features: layers to follow as well. control: False saves its time.
    """
    made = student if isinstance(student, Model) else _student(student, width, teacher, options.seed)
    return distill_beside(
        made, teacher, task_of(task), options, distillation,
        features=features, control=control, on_stage=on_stage, on_step=on_step,
    )  # fmt: skip


def _student(name: str, width: float, teacher: Model, seed: int) -> Model:
    from packlight import students

    shape = teacher.outputs[0].shape
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise PacklightError(f"{teacher.name} gives {list(shape)}, not class scores; bring a student Model of your own")
    example = teacher.example_inputs()
    module = students.make(name, shape[1], tuple(example[0].shape[1:]), width, seed)
    return from_module(module, example, name=f"{name}-{width:g}")


def transfer(
    model: Model,
    task: TaskLike,
    *,
    classes: int | None = None,
    modes: Sequence[str] = ("extract", "adapt", "unfreeze", "full"),
    time_limit: str | float | None = None,
    options: Transfer = Transfer(),
    on_stage: Callable[[str], None] = lambda text: None,
) -> TransferResult:
    """Give a classifier a new head for the task's classes, train it in several modes, and return what does best on
    the validation data, with the comparison.

    classes: as many as the training targets have when not given. modes: "extract" (frozen backbone), "adapt"
    (low-rank adapters), "unfreeze" (layer by layer) and "full". time_limit: e.g. "20m", shared out among them.
    """
    limit = parse_time(time_limit)
    return transfer_in_modes(
        model, task_of(task), classes, modes=modes, time_limit_s=limit, options=options, on_stage=on_stage
    )

"""`packlight finetune`, `distill` and `transfer`: commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from packlight.cli import outputs, progress, show, training
from packlight.cli.options import (
    BatchOption,
    EpochsOption,
    JsonOption,
    ModelArgument,
    OutFile,
    RateOption,
    RecipeOption,
    SeedOption,
    TaskOption,
)
from packlight.errors import PacklightError


def finetune(
    model: ModelArgument,
    task: TaskOption,
    out: OutFile,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    learning_rate: RateOption = None,
    batch: BatchOption = None,
    seed: SeedOption = None,
    time: Annotated[str | None, typer.Option("--time", help="The run ends then at the latest, e.g. 20m.")] = None,
    teacher: Annotated[str | None, typer.Option(help="A network to distil from.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="File that a killed run resumes from.")] = None,
    log: Annotated[
        Path | None, typer.Option(help="JSON-lines file of losses and scores; a page beside it plots them.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network further on the task's training data, with distillation when a teacher is given. A quantized
    network is trained through its quantizers. Runs on several processes under torchrun -m packlight."""
    from packlight.api.opening import load
    from packlight.api.training import finetune as tuned
    from packlight.train import Distillation

    outputs.check_file(out)
    training.check_log(log)
    chosen = training.recipe(recipe, epochs, learning_rate, batch, seed, time)
    if teacher is None and chosen.distillation != Distillation():
        raise PacklightError(f"{recipe} has a distillation, but there is no teacher; give --teacher")
    with progress.steps("training", as_json or not training.first_process()) as advance:
        made = tuned(
            load(model), task, options=chosen.fit, distillation=chosen.distillation, hooks=chosen.hooks,
            teacher=load(teacher) if teacher else None, checkpoint=checkpoint, log=log,
            on_step=training.shown(advance),
        )  # fmt: skip
    if training.first_process():
        made.save(out)
        if log is not None:
            training.plot(log)
        outputs.wrote(out, made, as_json)


def distill(
    teacher: Annotated[str, typer.Argument(help="The trained network: a .plm or .onnx file, or module:factory.")],
    task: TaskOption,
    out: OutFile,
    student: Annotated[
        str, typer.Option(help="One of packlight's students by name, a .plm or .onnx file, or module:factory.")
    ] = "resnet8",
    width: Annotated[float, typer.Option(help="Of a student by name: a factor on its channels.")] = 1.0,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    learning_rate: RateOption = None,
    batch: BatchOption = None,
    seed: SeedOption = None,
    control: Annotated[bool, typer.Option(help="Train the same student without the teacher, too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Train a small network after a large one, and say what the teacher was worth."""
    from packlight.api.opening import load
    from packlight.api.training import distill as distilled
    from packlight.students import names

    outputs.check_file(out)
    chosen = training.recipe(recipe, epochs, learning_rate, batch, seed, None)
    if chosen.hooks:
        raise PacklightError(f"{recipe}: distillation is compared with its control alone; leave hooks out")
    with progress.steps("training", as_json) as advance:
        found = distilled(
            load(teacher), task, student=student if student in names() else load(student), width=width,
            options=chosen.fit, distillation=chosen.distillation, control=control, on_step=training.shown(advance),
        )  # fmt: skip
    training.keep(found, out, as_json, training.show_distilled)


def transfer(
    model: ModelArgument,
    task: TaskOption,
    out: OutFile,
    mode: Annotated[
        list[str] | None, typer.Option(help="extract, adapt, unfreeze or full; may be repeated. Default: all.")
    ] = None,
    time: Annotated[str | None, typer.Option("--time", help="For all modes together, e.g. 20m.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a classifier a head for the task's classes, train it in several modes, keep what does best."""
    from packlight.api.opening import load
    from packlight.api.training import transfer as transferred

    outputs.check_file(out)
    with progress.stages(as_json) as stage:
        modes: dict[str, Any] = {"modes": mode} if mode else {}
        found = transferred(load(model), task, time_limit=time, on_stage=stage, **modes)
    training.keep(found, out, as_json, lambda found: show.line(found.table()))

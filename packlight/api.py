"""The public functions: each joins rooms that do not know one another. What README shows is stable."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from packlight import targets
from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.latency import compare
from packlight.measure.quality import evaluate, workload_inputs
from packlight.model import Model
from packlight.model.file import SUFFIX
from packlight.passes.fold import fold as fold_batch_norms
from packlight.passes.quantize import Quantization
from packlight.passes.quantize import quantize as quantize_for
from packlight.search.budget import Budget
from packlight.search.compress import compress as search
from packlight.search.compress import evaluate_artifact, parse_time
from packlight.search.result import Result
from packlight.sources.torch_module import from_module
from packlight.targets.artifact import Artifact
from packlight.targets.export import export as write
from packlight.task import Task
from packlight.train import Distillation, Fit, Progress, fit

Source = Model | nn.Module | str | os.PathLike[str]
TaskLike = Task | str


def load(
    source: Source,
    example_inputs: Any = None,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    name: str | None = None,
) -> Model:
    """A trained network as a Model.

    source: an nn.Module (with example_inputs: a tensor, a tuple, or a dict of keyword arguments), a saved
    `.plm` file, or "module:factory", a function of yours that returns a module and its example inputs.
    dynamic: input name → {axis: dimension name}; default: axis 0 of every input is "batch".
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, nn.Module):
        if example_inputs is None:
            raise PacklightError("a torch module needs example_inputs: load(module, torch.zeros(1, 3, 224, 224))")
        return from_module(source, example_inputs, dynamic=dynamic, name=name)
    text = os.fspath(source)
    if not Path(text).exists() and _is_factory(text):
        module, example = _call_factory(text)
        return load(module, example_inputs if example is None else example, dynamic=dynamic, name=name)
    if Path(text).suffix not in (SUFFIX, "") and Path(text).exists() and Path(text).suffix in (".onnx", ".pt2", ".keras", ".h5", ".pt", ".pth"):
        raise PacklightError(f"{text}: {Path(text).suffix} files cannot be opened yet; give a {SUFFIX} file, or module:factory")
    return Model.load(text)


def _is_factory(text: str) -> bool:
    module, colon, function = text.partition(":")
    return bool(colon) and function.isidentifier() and all(p.isidentifier() for p in module.split("."))


def _call_factory(text: str) -> tuple[Any, Any]:
    """Run the user's `module:function`, found as Python finds modules, the current folder first."""
    module, _, function = text.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), function)()
    except Exception as error:  # the user's own code runs in there: anything can be raised
        raise PacklightError(f"{text} failed: {type(error).__name__}: {error}") from error
    if isinstance(made, Model | nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made
    raise PacklightError(f"{text} must return a torch module and its example inputs, got {type(made).__name__}")


def fold(model: Model) -> Model:
    """Fold every batch norm into the layer before it; outputs stay the same to rounding."""
    return fold_batch_norms(model)


def quantize(
    model: Model,
    task: TaskLike,
    *,
    target: str | targets.Target = "onnxruntime",
    ranges: str = "mse",
    samples: int = 256,
    exclude: Sequence[str] = (),
    on_batch: Callable[[], None] = lambda: None,
) -> Model:
    """An int8 Model for a target, calibrated on the task's calibration data.

    ranges: "mse" or "minmax". samples: calibration samples to run. exclude: layer-name patterns (shell
    wildcards) that stay in float. What stays in float otherwise, and why, is in the result's `notes`.
    """
    options = Quantization(ranges, samples, tuple(exclude))
    return quantize_for(model, _task(task), targets.get(target).numerics, options, on_batch=on_batch)


def finetune(
    model: Model,
    task: TaskLike,
    *,
    epochs: float = 1.0,
    learning_rate: float = 0.01,
    teacher: Model | None = None,
    distillation: Distillation = Distillation(),
    options: Fit = Fit(),
    checkpoint: str | Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Model:
    """Train a copy of a Model on the task's training data, with logit distillation when a teacher is given.

    epochs and learning_rate overrule those of `options`. checkpoint: a file that a killed run resumes from.
    """
    chosen = replace(options, epochs=epochs, learning_rate=learning_rate)
    return fit(
        model, _task(task), chosen, teacher=teacher, distillation=distillation, checkpoint=checkpoint, on_step=on_step
    )


def export(
    model: Model,
    path: str | Path,
    *,
    target: str | targets.Target = "onnxruntime",
    form: str | None = None,
    task: TaskLike | None = None,
) -> Artifact:
    """Write a Model as a file for a runtime, with a manifest beside it; batch norms are folded first.

    form: how float weights are stored, one of the target's forms; default its first. task: whose
    preprocessing the manifest states.
    """
    preprocessing = _task(task).preprocessing if task is not None else None
    return write(fold_batch_norms(model), path, targets.get(target), form=form, preprocessing=preprocessing)


def measure(
    artifact: Artifact | Model | str | Path,
    task: TaskLike,
    *,
    baseline: Artifact | str | Path | None = None,
    split: str = "test",
) -> dict[str, Measurement]:
    """Measure a file on its runtime: quality, latency, memory, size; against a baseline also drop and ratios.

    A Model is measured for quality only, in PyTorch.
    """
    task = _task(task)
    if isinstance(artifact, Model):
        return {"quality": evaluate(artifact, task, split).measurement}
    mine = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    base = mine if baseline is None else baseline if isinstance(baseline, Artifact) else Artifact.open(baseline)
    inputs = workload_inputs(task, split, mine.fixed_batch or task.workload.batch)
    timings = compare([mine] if baseline is None else [base, mine], inputs, threads=task.workload.threads)
    scores = evaluate_artifact(mine, task, split)
    measured = {"quality": scores.measurement}
    times = timings[-1].as_measurements()
    if baseline is None:
        del times["latency_ratio"]
    else:
        before = evaluate_artifact(base, task, split)
        measured |= {"drop_points": scores.drop_from(before), "agreement": scores.agreement_with(before),
                     "file_ratio": Measurement.exact(base.bytes / mine.bytes, "×")}  # fmt: skip
    return measured | times | {"file_bytes": Measurement.exact(mine.bytes, "bytes")}


def compress(
    model: Model,
    task: TaskLike,
    *,
    target: str | targets.Target = "onnxruntime",
    budget: str | Budget = "drop<=1%, latency:min",
    time_limit: str | float | None = None,
    exclude: Sequence[str] = (),
    on_stage: Callable[[str], None] = lambda text: None,
) -> Result:
    """Find the smallest and fastest form of a Model that still does its job on a target.

    budget: limits and a goal, e.g. "drop<=0.3points, size<=500kB, latency:min"; `%` is relative to the float
    baseline. time_limit: e.g. "20m". Always returns: `result.best`, and `result.met`, `proven`, `reason`.
    """
    wanted = budget if isinstance(budget, Budget) else Budget.parse(budget)
    return search(
        model, _task(task), targets.get(target), wanted,
        exclude=exclude, time_limit=parse_time(time_limit), on_stage=on_stage,
    )  # fmt: skip


def _task(task: TaskLike) -> Task:
    return task if isinstance(task, Task) else Task.named(task)

"""Pruning with what it takes from a task: data for scores and compensation, fine-tuning between steps, real inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.latency import compare
from packlight.measure.quality import evaluate, workload_dims, workload_inputs
from packlight.model import Model, Statistics, statistics
from packlight.passes.batches import batches_of
from packlight.passes.fold import fold
from packlight.passes.prune import Evidence, Pruning, prune
from packlight.passes.prune.depth import drop_blocks
from packlight.passes.prune.scores import NEEDS_DATA
from packlight.passes.prune.walk import unusual_sizes
from packlight.passes.renorm import rebase
from packlight.search.pruning.gradual import Fade, Gradual
from packlight.search.pruning.widths import Width, widths
from packlight.targets import Target, export
from packlight.task import Data, Task
from packlight.train import Distillation, Fit, Hook, Progress, fit
from packlight.train.losses import task_loss

_BATCH = 64
_PROBES = 5  # cuts that are exported and timed; the last halves a sixteenth of the channels


@dataclass(frozen=True)
class Pruned:
    """What `prune` found.

    model: the smaller network. before, after: statistics at batch 1. control: the network as it was, trained for as
    long and after the same teacher; None where nothing was trained or it was not wanted. quality: of "before", "after"
    and "control" on `split`; empty without labelled data. drop: of `model` from "before" and from "control", paired,
    in the metric's units.
    """

    model: Model
    before: Statistics
    after: Statistics
    control: Model | None
    split: str | None
    quality: dict[str, Measurement]
    drop: dict[str, Measurement]

    @property
    def widths(self) -> list[Width]:
        """Channels of every layer before and after."""
        return widths(self.before, self.after)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": repr(self.model), "split": self.split, "notes": list(self.model.notes),
            "params": [self.before.params, self.after.params], "macs": [self.before.macs, self.after.macs],
            "weight_bytes": [self.before.weight_bytes, self.after.weight_bytes],
            "widths": [asdict(w) for w in self.widths],
            "quality": {k: m.as_json() for k, m in self.quality.items()},
            "drop": {k: m.as_json() for k, m in self.drop.items()},
        }  # fmt: skip


def prune_with(
    model: Model,
    task: Task | None,
    options: Pruning,
    *,
    compensate: bool | None = None,
    samples: int = 512,
    options_fit: Fit | None = None,
    steps: int = 1,
    draws: int = 1,
    blocks: int = 0,
    gradual: Gradual | None = None,
    target: Target | None = None,
    distillation: Distillation | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Model:
    """A pruned Model. With options_fit, it is fine-tuned: after every one of `steps` cuts, each of which takes the same
    share of what is left, for a share of that training; with `distillation` after the network as it was.

    draws: with the random score, the best of so many, by the loss on `samples` of training data. blocks: residual
    blocks that are left out first, those that change least on data. gradual: channels fade while the whole run of
    training goes on, and are cut at its end. target: where latency is measured, when `options.by` says so.
    """
    if steps < 1 or (steps > 1 and options_fit is None):
        raise PacklightError(f"pruning takes steps >= 1, and more than one needs training between them; got {steps}")
    if gradual is not None and (options_fit is None or steps > 1):
        raise PacklightError("gradual pruning takes one run of training: give its epochs, and no steps")
    if options_fit is not None and task is None:
        raise PacklightError("fine-tuning needs data; give a task with training data")
    if samples < 1:
        raise PacklightError(f"pruning needs samples >= 1, got {samples}")
    data = calibration_inputs(model, task, samples) if task is not None else []
    if compensate and not data:
        raise PacklightError("compensation needs data; give a task with calibration or training data")
    calibration = data if compensate or compensate is None else []
    made = rebase(model, data) if options_fit is not None and data and (gradual or not calibration) else model
    inputs = _proof_inputs(model, task)
    if blocks:
        on_stage(f"leaving out {blocks} of the blocks")
        made = drop_blocks(made, blocks, data)
    if gradual is not None and options_fit is not None and task is not None:
        on_stage("training while channels fade")
        left = replace(options, keep=min(1.0, options.keep * _left(model, made, options.by, 1.0)))
        fade = Fade(left, gradual)
        made = _trained(made, task, options_fit, model, distillation, on_step, fade)
        return fade.cut(made, inputs)
    for step in range(steps):
        share = options.keep ** ((step + 1) / steps) * _left(model, made, options.by, options.keep ** (step / steps))
        on_stage(f"cutting ({step + 1} of {steps})" if steps > 1 else "cutting")
        evidence = evidence_of(made, task, samples) if options.score in NEEDS_DATA else None
        layers = {name: kept ** (1 / steps) for name, kept in options.layers.items()}
        now = replace(options, keep=min(1.0, share), layers=layers)

        def cut(how: Pruning, of: Model = made, evidence: Evidence | None = evidence) -> Model:
            return prune(of, how, evidence, calibration, inputs)

        if options.by == "latency":
            made = _fast_enough(made, task, now, target, cut, on_stage)
        elif draws > 1:
            made = _best_drawn(made, task, now, samples, draws, cut)
        else:
            made = cut(now)
        if options_fit is not None and task is not None:
            on_stage("fine-tuning")
            made = _trained(made, task, _share_of(options_fit, steps), model, distillation, on_step)
    return made


def _trained(
    model: Model, task: Task, how: Fit, whole: Model, distillation: Distillation | None,
    on_step: Callable[[Progress], None] | None, *hooks: Hook,
) -> Model:  # fmt: skip
    """Trained, with `distillation` after the network as it was."""
    if distillation is None:
        return fit(model, task, how, hooks=hooks, on_step=on_step)
    return fit(model, task, how, hooks=hooks, teacher=whole, distillation=distillation, on_step=on_step)


def pruned(
    model: Model,
    task: Task | None,
    options: Pruning,
    *,
    control: bool = True,
    on_stage: Callable[[str], None] = lambda text: None,
    **how: Any,
) -> Pruned:
    """Prune, and compare with the network as it was and with it after the same training."""
    training = how.get("options_fit")
    split = None if task is None else _judged_on(task)
    scores = {}
    if task is not None and split is not None:
        on_stage("scoring the network as it is")
        scores["before"] = evaluate(model, task, split)
    made = prune_with(model, task, options, on_stage=on_stage, **how)
    beside = None
    if task is not None and split is not None:
        if control and training is not None and _labelled(task, "train"):
            on_stage("training the control: the network as it was, in the same way")
            data = calibration_inputs(model, task, how.get("samples", 512))
            start = rebase(model, data) if data else model
            beside = _trained(start, task, training, model, how.get("distillation"), how.get("on_step"))
        on_stage("scoring")
        scores |= {
            name: evaluate(m, task, split) for name, m in (("after", made), ("control", beside)) if m is not None
        }
    drop = {name: scores["after"].drop_from(s) for name, s in scores.items() if name != "after"}
    quality = {name: s.measurement for name, s in scores.items()}
    return Pruned(made, statistics(model), statistics(made), beside, split, quality, drop)


def _judged_on(task: Task) -> str | None:
    """The split that a verdict is given on; None without labelled data for one."""
    return next((split for split in ("test", "validation") if _labelled(task, split)), None)


def _labelled(task: Task, split: str) -> bool:
    return getattr(task, split) is not None and task.data(split).take(1).targets is not None


def _left(whole: Model, now: Model, by: str, planned: float) -> float:
    """What was there before anything went over what is there now; by what was planned, where it cannot be counted."""
    counted: dict[str, Callable[[Statistics], int]] = {
        "params": lambda s: s.params, "macs": lambda s: s.macs, "bytes": lambda s: s.weight_bytes + s.buffer_bytes,
    }  # fmt: skip
    if by not in counted:
        return 1 / planned
    before, after = (counted[by](statistics(m)) for m in (whole, now))
    return before / after if after else 1.0


def _best_drawn(
    model: Model, task: Task | None, options: Pruning, samples: int, draws: int, cut: Callable[[Pruning], Model]
) -> Model:
    """Li et al. 2022, arXiv 2111.02737: channels drawn at random many times, the best kept."""
    evidence = evidence_of(model, task, samples)
    if options.score != "random" or evidence is None:
        raise PacklightError("drawing many times takes the score random and a task with training data")

    def loss(made: Model) -> float:
        with torch.no_grad():
            return sum(float(evidence.loss(made.flat(*x), y)) for x, y in evidence.batches if y is not None)

    return min((cut(replace(options, seed=options.seed + i)) for i in range(draws)), key=loss)


def _fast_enough(
    model: Model, task: Task | None, options: Pruning, target: Target | None, cut: Callable[[Pruning], Model],
    on_stage: Callable[[str], None],
) -> Model:  # fmt: skip
    """The widest cut whose file takes at most `keep` of the time that the whole network's takes, by bisection of the
    share of channels; each is exported and timed against the whole one, alternated."""
    if task is None or target is None:
        raise PacklightError("pruning by latency needs a task, whose workload is timed, and a target")
    source = "calibration" if task.calibration is not None or task.train is not None else "validation"
    inputs = workload_inputs(task, source, model.fixed_batch or task.workload.batch)
    low, high, best = 0.0, 1.0, None
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        dims = workload_dims(model, task)
        whole = export(fold(model), Path(folder) / f"whole{target.suffix}", target, dims=dims)
        for i in range(_PROBES):
            share = (low + high) / 2
            made = cut(replace(options, by="channels", keep=share))
            file = export(fold(made), Path(folder) / f"cut{i}{target.suffix}", target, dims=dims)
            ratio = compare([whole, file], inputs, threads=task.workload.threads)[1].ratio.value
            on_stage(f"{share:.0%} of the channels: {ratio:.2f} of the latency")
            if ratio <= options.keep:
                low, best = share, made
            else:
                high = share
    if best is None:
        raise PacklightError(
            f"no cut of {model.name} takes {options.keep:.0%} of the latency on {target.name}; allow more, or cut by "
            "macs"
        )
    return best


def _share_of(how: Fit, steps: int) -> Fit:
    """A run's share when it is taken in steps."""
    if steps == 1:
        return how
    schedule = how.schedule
    shorter = replace(
        schedule, steps=None if schedule.steps is None else max(1, schedule.steps // steps),
        time_s=None if schedule.time_s is None else schedule.time_s / steps,
    )  # fmt: skip
    return replace(how, epochs=how.epochs / steps, schedule=shorter)


def _source(task: Task) -> Data | None:
    """Where unlabelled inputs come from."""
    split = "calibration" if task.calibration is not None else "train"
    return task.data(split) if getattr(task, split) is not None else None


def calibration_inputs(model: Model, task: Task, samples: int) -> list[tuple[Tensor, ...]]:
    """Calibration inputs in batches; none where the task has neither calibration nor training data."""
    source = _source(task)
    return [] if source is None else [inputs for inputs, _ in batches_of(model, source, samples, _BATCH)]


def evidence_of(model: Model, task: Task | None, samples: int) -> Evidence | None:
    """What scores with data look at: the first training samples of a task."""
    if task is None:
        return None
    return Evidence(batches_of(model, task.data("train"), samples, _BATCH), task_loss(task.loss))


def _proof_inputs(model: Model, task: Task | None) -> Sequence[tuple[Tensor, ...]]:
    """Real inputs of the sizes that a proof runs at, where the task has such."""
    source = None if task is None else _source(task)
    if source is None:
        return ()
    sizes = unusual_sizes(model)
    wanted = [spec.sizes({**model.dims, **sizes}) for spec in model.inputs]
    batch = source.take(wanted[0][0] if wanted[0] else 1)
    found = batch.select(slice(0, len(batch)))
    shapes = [tuple(x.shape) for x in found.inputs]
    if shapes != [tuple(w) for w in wanted]:
        return ()
    return (tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in found.inputs),)

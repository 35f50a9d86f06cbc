"""Files measured on their runtimes, runtimes compared, and the best form found within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from packlight import targets
from packlight.api.given import TargetLike, TaskLike, task_of
from packlight.environments import own_environments
from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.devices import Device
from packlight.measure.devices import device as find_device
from packlight.measure.latency import compare as compare_times
from packlight.measure.latency import thread_counts, throughput
from packlight.measure.machine import cores
from packlight.measure.quality import evaluate, evaluate_artifact, workload_inputs
from packlight.measure.roofline import Estimate
from packlight.measure.roofline import estimate as roofline
from packlight.model import Model, patterns_of
from packlight.model.file import SUFFIX
from packlight.passes.fold import fold as fold_batch_norms
from packlight.search.budget import Budget, parse_time
from packlight.search.comparison import Comparison, compare_targets
from packlight.search.compress import compress as search
from packlight.search.result import Result
from packlight.sources import (
    SOURCE_ENVIRONMENTS,
)
from packlight.targets import Artifact


def install_target(name: str, *, on_stage: Callable[[str], None] = lambda text: None) -> str:
    """Make the environment of its own that a target needs, or that of "tensorflow" for SavedModel folders and .tflite
    files (minutes); one line on what there is now. Raises PacklightError for a target that shares ours, with the line
    that installs it."""
    environment = name if name in SOURCE_ENVIRONMENTS else targets.get(name).environment
    if environment is None:
        raise PacklightError(f"{name} shares packlight's environment; run: {targets.get(name).install}")
    own_environments().make(environment, lambda which: on_stage(f"making the environment {which} (minutes)"))
    return f"{name} is installed"


def measure(
    artifact: Artifact | Model | str | Path,
    task: TaskLike,
    *,
    baseline: Artifact | str | Path | None = None,
    split: str = "test",
) -> dict[str, Measurement]:
    """Measure a file on its runtime: quality, latency, throughput, memory, size; against a baseline file also drop,
    agreement and ratios. A Model (or `.plm` file) is measured for quality only, in PyTorch.

    split: the data for quality, "test", "validation", "train" or "calibration", labelled.
    """
    task = task_of(task)
    if not isinstance(artifact, Artifact | Model) and Path(artifact).suffix == SUFFIX:
        artifact = Model.load(artifact)
    if isinstance(artifact, Model):
        return {"quality": evaluate(artifact, task, split).measurement}
    mine = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    scores = evaluate_artifact(mine, task, split)
    measured = {"quality": scores.measurement}
    if baseline is not None:
        base = baseline if isinstance(baseline, Artifact) else Artifact.open(baseline)
        before = evaluate_artifact(base, task, split)
        measured |= {"drop_points": scores.drop_from(before), "agreement": scores.agreement_with(before),
                     "file_ratio": Measurement.exact(base.bytes / mine.bytes, "×")}  # fmt: skip
    inputs = workload_inputs(task, split, mine.fixed_batch or task.workload.batch)
    beside = [mine] if baseline is None else [base, mine]
    times = compare_times(beside, inputs, threads=task.workload.threads)[-1].as_measurements()
    if baseline is None:
        del times["latency_ratio"]
    rates = throughput(mine, inputs, thread_counts(cores()))
    measured |= times | {f"throughput_{n}_thread{'s' * (n > 1)}": rate for n, rate in rates.items()}
    return measured | {"file_bytes": Measurement.exact(mine.bytes, "bytes")}


def estimate(model: Model, device: str | Device, *, batch: int = 1, form: str = "float32") -> Estimate:
    """A lower bound of a Model's latency on a device that is not at hand, from its data sheet's peaks: an estimate, no
    measurement. device: a profile's name (`packlight estimate` lists them), a .yaml file of your own, or "here".
    batch: samples at once. form: "float32" or "float16"; quantized layers compute in int8 where the device does.
    """
    return roofline(fold_batch_norms(model), find_device(device) if isinstance(device, str) else device, batch, form)


def compare(
    model: Model,
    task: TaskLike,
    *,
    target: TargetLike | Sequence[TargetLike] = (),
    split: str = "test",
    exclude: str | Sequence[str] = (),
    on_stage: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """One float network on several runtimes: every form that each of them has, int8 with the same scales on all, made,
    checked against the Model, scored on the task's `split` and timed in one run.

    target: runtimes; default: all that are installed here. exclude: layer-name patterns that stay in float.
    """
    several = [target] if isinstance(target, str | targets.Target) else list(target)
    chosen = [targets.get(t) for t in several] or targets.installed()
    return compare_targets(model, task_of(task), chosen, split=split, exclude=patterns_of(exclude), on_stage=on_stage)


def compress(
    model: Model,
    task: TaskLike,
    *,
    target: str | targets.Target = "onnxruntime",
    budget: str | Budget = "drop<=1%, latency:min",
    time_limit: str | float | None = None,
    exclude: str | Sequence[str] = (),
    prove: bool = False,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Result:
    """Find the smallest and fastest form of a Model that still does its job on a target.

    budget: limits and a goal, e.g. "drop<=0.3points, size<=500kB, latency:min"; `%` is relative to the float
    baseline. time_limit: e.g. "20m", after which no further form is tried. exclude: layer-name patterns that stay
    in float. prove: choose only forms that keep the budget with the bad end of every interval.
    Always returns: `result.best`, and `result.met`, `proven`, `reason`.
    """
    wanted = budget if isinstance(budget, Budget) else Budget.parse(budget)
    return search(
        model, task_of(task), targets.get(target), wanted,
        exclude=exclude, prove=prove, time_limit=parse_time(time_limit), on_stage=on_stage,
    )  # fmt: skip

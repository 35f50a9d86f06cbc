"""The main job in its first form: try the forms a runtime offers, measure each on it, ship the best.

The baseline is the fair one: the float network with batch norm folded, as the same exporter writes it. A
form whose latency ratio lies wholly above 1.02, whose file is not smaller, or whose file does not compute
what the Model computes, is refused. Choices are made on validation data; the verdict on the best is on test.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packlight.errors import ChildFailure, PacklightError
from packlight.measure import Measurement
from packlight.measure.latency import compare, throughput
from packlight.measure.machine import describe
from packlight.measure.parity import check
from packlight.measure.quality import Scores, check_fit, evaluate, fixed_batch, workload_inputs
from packlight.model import Model, statistics
from packlight.passes.fold import fold
from packlight.passes.quantize import Quantization, quantize
from packlight.search.budget import Budget, Verdict
from packlight.search.result import Form, Result
from packlight.targets.artifact import Artifact, Runner
from packlight.targets.contract import Target
from packlight.targets.export import export
from packlight.targets.host import Child
from packlight.task import Task

SLOWER = 1.02
_PARITY_SAMPLES = 32


@dataclass(frozen=True)
class Candidate:
    """A form to try. form: the target's weight form. quantization: None to stay in float."""

    name: str
    form: str
    quantization: Quantization | None = None


def candidates(target: Target, exclude: tuple[str, ...]) -> list[Candidate]:
    """The training-free forms, the ones most likely to win first."""
    found = [Candidate("int8", target.forms[0], Quantization(exclude=exclude))]
    found += [Candidate(form, form) for form in target.forms[1:]]
    return [*found, Candidate("int8-minmax", target.forms[0], Quantization("minmax", exclude=exclude))]


def compress(
    model: Model,
    task: Task,
    target: Target,
    budget: Budget,
    *,
    exclude: Sequence[str] = (),
    time_limit: float | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Result:
    """Find the best form of a Model for a target within a budget; always returns the best there is.

    exclude: layer-name patterns that stay in float. time_limit: seconds after which no further form is
    tried. on_stage: told what is being done. The result holds its files in a temporary folder until saved.
    """
    began = time.monotonic()
    target.require()
    split = "validation" if task.validation is not None else "test"
    inputs = _check(model, task, split)
    folder = tempfile.TemporaryDirectory(prefix="packlight-")
    work = _Work(task, target, split, inputs, Path(folder.name), on_stage)
    with Child(target) as exporter:
        baseline = work.baseline(fold(model), exporter)
        tried: list[Form] = []
        skipped: dict[str, str] = {}
        for candidate in candidates(target, tuple(exclude)):
            late = time_limit is not None and time.monotonic() - began > time_limit
            if late:
                skipped[candidate.name] = f"the time limit of {time_limit:.0f} s was reached"
            elif candidate.name == "int8-minmax" and any(_fits(f, budget, baseline) for f in tried):
                skipped[candidate.name] = "int8 keeps the budget already"
            else:
                try:
                    tried.append(work.candidate(candidate, model, exporter))
                except ChildFailure as error:
                    skipped[candidate.name] = str(error)
                    exporter = work.another(exporter)
                except PacklightError as error:
                    skipped[candidate.name] = str(error)
        exporter.close()
    best = choose(baseline, tried, budget)
    baseline, best = work.on_test(baseline, best)
    verdict = budget.judge(best.measurements, baseline.measurements)
    on_stage("measuring throughput")
    counts = sorted({1, describe()["cores"]})
    rates = {f.name: throughput(f.artifact, inputs, counts) for f in {f.name: f for f in (baseline, best)}.values()}
    workload = {"batch": task.workload.batch, "threads": task.workload.threads}
    result = Result(
        model.name, task.name, task.measure_with.name, target.name, budget, baseline, best, tried, verdict, describe(),
        workload, skipped, rates, round(time.monotonic() - began, 1),
    )  # fmt: skip
    result._folder = folder  # type: ignore[attr-defined]  # lives as long as the result does
    return result


def choose(baseline: Form, tried: Sequence[Form], budget: Budget) -> Form:
    """The form within budget that minimises its goal; else the nearest miss. The baseline counts as a form."""
    forms = [baseline, *(f for f in tried if not f.refused)]
    inside = [f for f in forms if _fits(f, budget, baseline)]
    if inside:
        return min(inside, key=lambda f: (f.measurements[budget.minimise].value, f.measurements["file_bytes"].value))
    return min(forms, key=lambda f: budget.judge(f.measurements, baseline.measurements).excess)


def _fits(form: Form, budget: Budget, baseline: Form) -> bool:
    return not form.refused and budget.judge(form.measurements, baseline.measurements).met


class _Work:
    """One search's surroundings, and what is measured once: the baseline's scores."""

    def __init__(
        self, task: Task, target: Target, split: str, inputs: tuple[object, ...], folder: Path,
        on_stage: Callable[[str], None],
    ):  # fmt: skip
        self.task, self.target, self.split, self.inputs, self.folder = task, target, split, inputs, folder
        self.on_stage = on_stage
        self.reference: Artifact
        self.scores: dict[str, Scores] = {}

    def another(self, dead: Child) -> Child:
        dead.close()
        return Child(self.target)

    def baseline(self, folded: Model, exporter: Child) -> Form:
        self.on_stage("exporting the float baseline")
        self.reference = self._export(folded, "baseline", self.target.forms[0], exporter)
        self.on_stage("measuring the float baseline")
        scores = self._score(self.reference)
        self.scores["baseline"] = scores
        timing = compare([self.reference], self.inputs, threads=self.task.workload.threads)[0]
        measured = self._measurements(self.reference, scores, scores) | timing.as_measurements()
        return self._form("baseline", folded, self.reference, measured, "")

    def candidate(self, candidate: Candidate, model: Model, exporter: Child) -> Form:
        made = fold(model)
        if candidate.quantization is not None:
            self.on_stage(f"{candidate.name}: calibrating and quantizing")
            made = quantize(model, self.task, self.target.numerics, candidate.quantization)
        self.on_stage(f"{candidate.name}: exporting")
        artifact = self._export(made, candidate.name, candidate.form, exporter)
        self.on_stage(f"{candidate.name}: checking the file against the Model")
        parity = check(made, artifact, workload_inputs(self.task, self.split, fixed_batch(made) or _PARITY_SAMPLES))
        self.on_stage(f"{candidate.name}: measuring on {self.target.name}")
        scores = self._score(artifact)
        self.scores[candidate.name] = scores
        _, timing = compare([self.reference, artifact], self.inputs, threads=self.task.workload.threads)
        measured = self._measurements(artifact, scores, self.scores["baseline"]) | timing.as_measurements()
        measured["parity_error"] = Measurement.exact(parity.error, "relative")
        refused = _refusal(measured)
        if not parity.ok:
            place = f", first at layer {parity.layer!r}" if parity.layer else ""
            refused = f"the file does not compute what the Model computes (error {parity.error:.2g}{place})"
        return self._form(candidate.name, made, artifact, measured, refused)

    def on_test(self, baseline: Form, best: Form) -> tuple[Form, Form]:
        """Both forms with quality, drop and agreement of the test data, which nothing so far has looked at."""
        if self.split == "test" or self.task.test is None:
            return baseline, best
        self.on_stage("giving the verdict on test data")
        before = evaluate_artifact(baseline.artifact, self.task, "test")
        after = before if best is baseline else evaluate_artifact(best.artifact, self.task, "test")
        return self._rescored(baseline, before, before), self._rescored(best, after, before)

    def _rescored(self, form: Form, scores: Scores, before: Scores) -> Form:
        measured = form.measurements | self._measurements(form.artifact, scores, before)
        return replace(form, measurements=measured, split="test")

    def _export(self, model: Model, name: str, form: str, exporter: Child) -> Artifact:
        path = self.folder / f"{name}{self.target.suffix}"
        return export(
            model, path, self.target, form=form, preprocessing=self.task.preprocessing, exporter=exporter
        )

    def _score(self, artifact: Artifact) -> Scores:
        return evaluate_artifact(artifact, self.task, self.split)

    def _measurements(self, artifact: Artifact, scores: Scores, before: Scores) -> dict[str, Measurement]:
        return {
            "quality": scores.measurement,
            "drop_points": scores.drop_from(before),
            "agreement": scores.agreement_with(before),
            "file_bytes": Measurement.exact(artifact.bytes, "bytes"),
            "file_ratio": Measurement.exact(self.reference.bytes / artifact.bytes, "×"),
        }

    def _form(
        self, name: str, model: Model, artifact: Artifact, measured: dict[str, Measurement], refused: str
    ) -> Form:
        recipe = " → ".join([*map(str, model.lineage), f"export(form={artifact.manifest['form']})"])
        return Form(name, recipe, model, artifact, measured, self.split, refused, layer_rows(model))


def evaluate_artifact(artifact: Artifact, task: Task, split: str) -> Scores:
    """Score a file on its runtime, in a child process that may use every core."""
    with Runner(artifact, describe()["cores"], workload_inputs(task, split, artifact.fixed_batch or 1)) as runner:
        return evaluate(runner, task, split)


def layer_rows(model: Model) -> list[dict[str, object]]:
    """The per-layer table: operators with weights or MACs."""
    return [
        {"layer": r.name, "operator": r.operator, "output": list(r.output), "params": r.params, "macs": r.macs,
         "weight_bytes": r.weight_bytes, "bits": r.weight_bits or 32}
        for r in statistics(model).layers if r.params or r.macs
    ]  # fmt: skip


def parse_time(text: str | float | None) -> float | None:
    """Seconds from "90s", "20m", "1.5h" or a number; None for no limit."""
    if text is None or isinstance(text, int | float):
        return None if text is None else float(text)
    found = re.match(r"([0-9.]+)\s*([smh]?)\Z", text.strip().lower())
    if not found or found[1].count(".") > 1 or not float(found[1]) > 0:
        raise PacklightError(f"time limit {text!r}: give e.g. 90s, 20m or 1.5h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _check(model: Model, task: Task, split: str) -> tuple[object, ...]:
    """Refuse what cannot work before any work starts; real inputs of the workload."""
    task.data("calibration")
    batch = task.workload.batch
    fixed = fixed_batch(model)
    if fixed is not None and fixed != batch:
        raise PacklightError(
            f"{model.name} has a fixed batch of {fixed}, the workload asks for {batch}; set Workload(batch={fixed})"
        )
    inputs = workload_inputs(task, split, batch)
    check_fit(model, inputs)
    return inputs


def _refusal(measured: dict[str, Measurement]) -> str:
    reasons = []
    ratio, size = measured["latency_ratio"], measured["file_ratio"]
    if ratio.low > SLOWER:
        reasons.append(f"slower than the float baseline: {ratio}")
    if size.value < 1:
        reasons.append(f"larger than the float baseline: {1 / size.value:.2f} times")
    return "; ".join(reasons)

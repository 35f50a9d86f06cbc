"""Builds forms of a network and measures each on its runtime against the float baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from packlight.errors import ChildFailure, PacklightError
from packlight.measure import Measurement
from packlight.measure.latency import compare, thread_counts, throughput
from packlight.measure.machine import cores
from packlight.measure.parity import check
from packlight.measure.quality import Scores, evaluate_artifact, workload_dims, workload_inputs
from packlight.model import Model, statistics
from packlight.passes.quantize import Quantization, quantize
from packlight.search.candidates import PLAIN, Candidate
from packlight.search.choose import refusal
from packlight.search.prepare import Ground
from packlight.search.result import Form, WorkFolder
from packlight.search.tune import Plain, tune
from packlight.targets import Artifact, Child, Target, export

_PARITY_SAMPLES = 32


class Workbench:
    """One search's surroundings. The baseline comes first; candidates are measured against it.

    Use as a context manager: it keeps a child process for the conversions.
    """

    def __init__(self, ground: Ground, target: Target, on_stage: Callable[[str], None]):
        self.ground, self.target, self.on_stage = ground, target, on_stage
        self.folder = WorkFolder()
        self._exporter: Child | None = None
        self._reference: Artifact
        self._before: Scores
        self._plain: Plain | None = None

    def baseline(self) -> Form:
        """The float network as the runtime has it, measured; an error when the runtime computes something else."""
        model = self.ground.model
        self.on_stage("exporting the float baseline")
        artifact = self._export(model, Candidate("baseline", self.target.forms[0]))
        parity = check(model, artifact, self._parity_inputs(model))
        if not parity.ok:
            raise PacklightError(f"{self.target.name} cannot run {model.name}: {parity.reason}")
        self.on_stage("measuring the float baseline")
        self._reference, self._before = artifact, self._score(artifact)
        (timing,) = compare([artifact], self.ground.inputs, threads=self.ground.task.workload.threads)
        measured = self._measurements(artifact, self._before, self._before) | timing.as_measurements()
        measured["parity_error"] = Measurement.exact(parity.error, "relative")
        return self._form("baseline", model, artifact, measured, "")

    def measure(self, candidate: Candidate) -> Form:
        """Build a candidate, check its file against its Model, and measure it beside the baseline."""
        made = self._made(candidate)
        self.on_stage(f"{candidate.name}: exporting")
        artifact = self._export(made, candidate)
        if candidate.name == PLAIN:
            self._plain = Plain(self.ground.model, made, (self._reference, artifact))
        self.on_stage(f"{candidate.name}: checking the file against the Model")
        parity = check(made, artifact, self._parity_inputs(made))
        self.on_stage(f"{candidate.name}: measuring on {self.target.name}")
        threads = self.ground.task.workload.threads
        measured = self._measurements(artifact, self._score(artifact), self._before)
        measured |= compare([self._reference, artifact], self.ground.inputs, threads=threads)[1].as_measurements()
        measured["parity_error"] = Measurement.exact(parity.error, "relative")
        return self._form(candidate.name, made, artifact, measured, parity.reason or refusal(measured))

    def _made(self, candidate: Candidate) -> Model:
        """A candidate's Model."""
        made = self.ground.model
        if candidate.quantization is None:
            return made
        if candidate.tuned:
            return self._tuned(candidate.name, candidate.quantization)
        self.on_stage(f"{candidate.name}: calibrating and quantizing")
        return quantize(made, self.ground.task, self.target.numerics, candidate.quantization)

    def _tuned(self, name: str, options: Quantization) -> Model:
        """int8 with what ran slower left in float; an error where there is nothing to gain."""
        if self._plain is None:
            raise PacklightError(f"it starts from {PLAIN}, which could not be measured")
        self._exporter = self._exporter or Child(self.target)
        found = tune(
            self._plain, self.ground.task, self.target, options, self.ground.inputs, self.folder.path,
            exporter=self._exporter, on_stage=lambda text: self.on_stage(f"{name}: {text}"),
        )  # fmt: skip
        if found.ratio is None:
            raise PacklightError(f"no layer is worth leaving in float: none ran clearly slower in {PLAIN} here")
        if not found.excluded:
            raise PacklightError(f"what ran slower in {PLAIN} here gains nothing in float: latency {found.ratio}")
        return found.model

    def on_test(self, baseline: Form, best: Form) -> tuple[Form, Form]:
        """Both forms with quality, drop and agreement of the test data, which no choice has looked at."""
        self.on_stage("giving the verdict on test data")
        task = self.ground.task
        before = evaluate_artifact(baseline.artifact, task, "test")
        after = before if best is baseline else evaluate_artifact(best.artifact, task, "test")
        return self._rescored(baseline, before, before), self._rescored(best, after, before)

    def throughput(self, form: Form) -> dict[int, Measurement]:
        """Samples a second on 1, 2, 4, … and all processors."""
        self.on_stage(f"{form.name}: measuring throughput")
        return throughput(form.artifact, self.ground.inputs, thread_counts(cores()))

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dismiss()

    def _dismiss(self) -> None:
        if self._exporter is not None:
            self._exporter.close()
        self._exporter = None

    def _export(self, model: Model, candidate: Candidate) -> Artifact:
        self._exporter = self._exporter or Child(self.target)
        path = self.folder.path / f"{candidate.name}{self.target.suffix}"
        try:
            return export(
                model, path, self.target, form=candidate.form, dims=workload_dims(model, self.ground.task),
                preprocessing=self.ground.task.preprocessing, exporter=self._exporter,
            )  # fmt: skip
        except ChildFailure:
            self._dismiss()
            raise

    def _parity_inputs(self, model: Model) -> tuple[Any, ...]:
        return workload_inputs(self.ground.task, self.ground.split, model.fixed_batch or _PARITY_SAMPLES)

    def _score(self, artifact: Artifact) -> Scores:
        return evaluate_artifact(artifact, self.ground.task, self.ground.split)

    def _measurements(self, artifact: Artifact, scores: Scores, before: Scores) -> dict[str, Measurement]:
        return {
            "quality": scores.measurement,
            "drop_points": scores.drop_from(before),
            "agreement": scores.agreement_with(before),
            "file_bytes": Measurement.exact(artifact.bytes, "bytes"),
            "file_ratio": Measurement.exact(self._reference.bytes / artifact.bytes, "×"),
        }

    def _rescored(self, form: Form, scores: Scores, before: Scores) -> Form:
        measured = form.measurements | self._measurements(form.artifact, scores, before)
        return replace(form, measurements=measured, split="test")

    def _form(
        self, name: str, model: Model, artifact: Artifact, measured: dict[str, Measurement], refused: str
    ) -> Form:
        recipe = " → ".join([*map(str, model.lineage), f"export(form={artifact.manifest['form']})"])
        return Form(name, recipe, model, artifact, measured, self.ground.split, refused, layer_rows(model), self.folder)


def layer_rows(model: Model) -> list[dict[str, object]]:
    """The per-layer table: operators with weights or MACs. bits: what the weights are stored in, when quantized."""
    return [
        {"layer": r.name, "operator": r.operator, "output": list(r.output), "params": r.params, "macs": r.macs,
         "weight_bytes": r.weight_bytes, "bits": r.weight_bits or 32}
        for r in statistics(model).layers if r.params or r.macs
    ]  # fmt: skip

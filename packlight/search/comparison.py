"""One network on several runtimes: each file made, proven, scored and timed beside the others.

The float Model is quantized once, for what all runtimes that compute in int8 have in common, so that the int8 files
hold the same scales. All files are timed in one run, alternated (see `packlight.measure.latency`), and every ratio is
to the first file that works. A file that does not compute what its Model computes, or cannot be made, stays in the list
with the reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.latency import compare as timed
from packlight.measure.latency import throughput
from packlight.measure.machine import cores, describe
from packlight.measure.parity import check
from packlight.measure.quality import Scores, evaluate, evaluate_artifact, workload_dims, workload_inputs
from packlight.model import Model
from packlight.model.numerics import common
from packlight.passes.fold import fold
from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.search.candidates import mostly_dynamic
from packlight.search.prepare import prepare
from packlight.targets import Artifact, Child, Target, export
from packlight.task import Task

_PARITY_SAMPLES = 8
INT8, DYNAMIC = "int8", "int8-dynamic"


@dataclass(frozen=True)
class Deployed:
    """A form of the network on one runtime. measurements: by the names that `packlight measure` uses, agreement with
    the Model and parity_error among them; empty where `refused` says why there is no such file. notes: of the export.
    """

    target: str
    form: str
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    refused: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the file computes what it should."""
        return not self.refused


@dataclass(frozen=True)
class Comparison:
    """rows: in the order of targets, each with its forms. agreement: (target, form) twice → share of samples on which
    both files decide alike. before: the float Model's quality in PyTorch."""

    name: str
    task: str
    metric: str
    split: str
    before: Measurement
    rows: tuple[Deployed, ...]
    agreement: Mapping[tuple[tuple[str, str], tuple[str, str]], Measurement]
    machine: Mapping[str, Any]
    workload: Mapping[str, int]

    def best(self, target: str, most: float = 1.0) -> Deployed | None:
        """The fastest form on a runtime that loses at most so many points (of the metric's unit) against the float
        Model, by its estimate; None where there is none."""
        fit = [r for r in self.rows if r.target == target and r.ok and r.measurements["drop_points"].value <= most]
        return min(fit, key=lambda r: r.measurements["latency_ms"].value, default=None)

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "name": self.name, "task": self.task, "metric": self.metric, "split": self.split,
            "machine": dict(self.machine), "workload": dict(self.workload), "before": self.before.as_json(),
            "rows": [
                {"target": r.target, "form": r.form, "refused": r.refused, "notes": list(r.notes),
                 "best": r is self.best(r.target),
                 "measurements": {k: m.as_json() for k, m in r.measurements.items()}}
                for r in self.rows
            ],
            "agreement": [
                {"one": "/".join(one), "other": "/".join(other), **m.as_json()}
                for (one, other), m in self.agreement.items()
            ],
        }  # fmt: skip


def compare_targets(
    model: Model,
    task: Task,
    several: Sequence[Target],
    *,
    split: str = "test",
    exclude: Sequence[str] = (),
    on_stage: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Make every form of a float Model on each of several runtimes, and compare the files.

    Forms: those of the target's weights; int8 where it computes in int8; with ranges taken at run time where most
    weights can be so. split: labelled data that the files are scored on. Raises PacklightError where the Model is
    quantized, a runtime is missing, or nothing works at all.
    """
    if model.is_quantized:
        raise PacklightError(
            f"{model.name} is quantized; compare the float network: it is quantized here, once for all"
        )
    for target in several:
        target.require()
    ground = prepare(model, task, exclude)
    forms = _models(ground.model, ground.task, several, ground.exclude, on_stage)
    on_stage("scoring the Model")
    references = {name: evaluate(m, task, split) for name, m in forms.items()}
    rows: list[Deployed] = []
    files: list[tuple[int, Artifact, Scores]] = []
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        for target, name, exporter in _exporters(several, forms):
            on_stage(f"{target.name} {name}: exporting, checking and scoring")
            base = name if name in (INT8, DYNAMIC) else ""
            row, made = _deployed(forms[base], ground.task, target, name, Path(folder), exporter)
            if made is not None:
                scores = evaluate_artifact(made, task, split)
                files.append((len(rows), made, scores))
                measured = _quality(scores, references[""], references[base], made)
                row = replace(row, measurements={**measured, **row.measurements})
            rows.append(row)
        if not files:
            raise PacklightError(f"no runtime runs {model.name}: {'; '.join(f'{r.target}: {r.refused}' for r in rows)}")
        on_stage(f"timing {len(files)} files")
        for (i, _, _), more in zip(files, _timings([a for _, a, _ in files], task, split), strict=True):
            rows[i] = replace(rows[i], measurements={**rows[i].measurements, **more})
    agreement = {
        ((rows[i].target, rows[i].form), (rows[j].target, rows[j].form)): mine.agreement_with(other)
        for a, (i, _, mine) in enumerate(files) for j, _, other in files[a + 1 :]
    }  # fmt: skip
    return Comparison(
        model.name, task.name, task.measure_with.name, split, references[""].measurement, tuple(rows), agreement,
        describe(), {"batch": task.workload.batch, "threads": task.workload.threads},
    )  # fmt: skip


def _models(
    model: Model, task: Task, several: Sequence[Target], exclude: tuple[str, ...], on_stage: Callable[[str], None]
) -> dict[str, Model]:
    """The float Model under "", and it quantized once for all targets that compute in int8."""
    found = {"": fold(model)}
    low = [t for t in several if t.numerics.groups]
    options = Quantization(exclude=exclude, bits=Bits())
    if low:
        on_stage("quantizing")
        found[INT8] = quantize(model, task, common([t.numerics for t in low]), options)
    dynamic = [t for t in low if t.numerics.dynamic and mostly_dynamic(model, t)]
    if dynamic:
        numerics = common([t.numerics for t in dynamic])
        found[DYNAMIC] = quantize(model, task, numerics, replace(options, mode="dynamic"))
    return found


def _wanted(target: Target, forms: Mapping[str, Model]) -> list[str]:
    """The names of a target's forms, the plainest first."""
    low = [INT8] if INT8 in forms and target.numerics.groups else []
    dynamic = [DYNAMIC] if DYNAMIC in forms and target.numerics.dynamic else []
    return [*target.forms, *low, *dynamic]


def _exporters(several: Sequence[Target], forms: Mapping[str, Model]) -> Iterator[tuple[Target, str, Child]]:
    """Every target's forms, with a child process to convert in: one a target, another after one that died."""
    for target in several:
        exporter: Child | None = None
        try:
            for name in _wanted(target, forms):
                exporter = exporter if exporter is not None and exporter.alive else Child(target)
                yield target, name, exporter
        finally:
            if exporter is not None:
                exporter.close()


def _deployed(
    model: Model, task: Task, target: Target, form: str, folder: Path, exporter: Child
) -> tuple[Deployed, Artifact | None]:
    """A form's file, proven to compute what its Model computes; None where there is no such file, and why."""
    path = folder / f"{target.name}-{form}{target.suffix}"
    stored = form if form in target.forms else target.forms[0]
    try:
        made = export(model, path, target, form=stored, dims=workload_dims(model, task), exporter=exporter)
        parity = check(model, made, workload_inputs(task, "calibration", model.fixed_batch or _PARITY_SAMPLES))
    except PacklightError as error:
        return Deployed(target.name, form, refused=" ".join(str(error).split())), None
    notes = tuple(made.manifest["notes"][len(model.notes) :])
    if not parity.ok:
        return Deployed(target.name, form, refused=parity.reason, notes=notes), None
    measured = {"parity_error": Measurement.exact(parity.error, "relative")}
    return Deployed(target.name, form, measured, notes=notes), made


def _quality(scores: Scores, before: Scores, reference: Scores, made: Artifact) -> dict[str, Measurement]:
    return {
        "quality": scores.measurement, "drop_points": scores.drop_from(before),
        "agreement": scores.agreement_with(reference), "file_bytes": Measurement.exact(made.bytes, "bytes"),
    }  # fmt: skip


def _timings(made: Sequence[Artifact], task: Task, split: str) -> list[dict[str, Measurement]]:
    """Of every file: latency on the workload's threads, alternated, cold start and memory; throughput on all."""
    inputs = workload_inputs(task, split, made[0].fixed_batch or task.workload.batch)
    found = [t.as_measurements() for t in timed(made, inputs, threads=task.workload.threads)]
    for one, artifact in zip(found, made, strict=True):
        (rate,) = throughput(artifact, inputs, [cores()]).values()
        one[f"throughput_{cores()}_thread{'s' * (cores() > 1)}"] = rate
    return found

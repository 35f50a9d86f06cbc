"""What a search found: the baseline, every form that was tried, the best, and why."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.files import make_folder, write_text
from packlight.measure import Measurement
from packlight.model import Model
from packlight.search.budget import Budget, Verdict
from packlight.targets import Artifact

_COMPARED = ("drop_points", "latency_ratio", "file_bytes")


class WorkFolder:
    """A temporary folder that goes when the last form that has files in it does."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="packlight-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass
class Form:
    """One way to ship the network. recipe: its steps, in words. measurements: name → Measurement; quality and
    drop are of `split`. refused: why it must not be shipped, "" when it may. layers: a row an operator.
    folder: where its files are until they are saved."""

    name: str
    recipe: str
    model: Model
    artifact: Artifact
    measurements: dict[str, Measurement]
    split: str
    refused: str = ""
    layers: list[dict[str, Any]] = field(default_factory=list)
    folder: WorkFolder | None = field(default=None, repr=False)

    def save(self, folder: str | Path) -> Artifact:
        """Copy the file and its manifest, the measured numbers included, into a folder."""
        numbers = {k: m.as_json() for k, m in self.measurements.items()}
        return self.artifact.save(folder, {"measurements": numbers, "measured_on": self.split}, self.model.files)

    def as_json(self) -> dict[str, Any]:
        """The form as a ledger has it."""
        return {
            "name": self.name,
            "recipe": self.recipe,
            "artifact": self.artifact.path.name,
            "split": self.split,
            "refused": self.refused or None,
            "notes": list(self.model.notes),
            "measurements": {k: m.as_json() for k, m in self.measurements.items()},
            "layers": self.layers,
        }


@dataclass
class Result:
    """The answer of `compress`. met, proven and reason are about `best`, on the test data where there is some.

    candidates: the other forms that were measured, refused ones included. skipped: name → why a form was not measured.
    throughput: form → threads → samples/s. notes: what to keep in mind about the numbers.
    """

    name: str
    task: str
    metric: str
    target: str
    budget: Budget
    baseline: Form
    best: Form
    candidates: list[Form]
    verdict: Verdict
    machine: Mapping[str, Any]
    workload: Mapping[str, int]
    skipped: Mapping[str, str] = field(default_factory=dict)
    throughput: Mapping[str, Mapping[int, Measurement]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def met(self) -> bool:
        """Whether every limit holds for the estimates."""
        return self.verdict.met

    @property
    def proven(self) -> bool:
        """Whether every limit holds for the bad ends of the 95 % intervals."""
        return self.verdict.proven

    @property
    def reason(self) -> str:
        """Why the budget is met or not, and why this form ships, in one line."""
        return self.verdict.reason

    @property
    def task_metric(self) -> str:
        """The metric's name with its unit, e.g. "accuracy %"."""
        return f"{self.metric} {self.baseline.measurements['quality'].unit}"

    @property
    def frontier(self) -> list[Form]:
        """Forms that no other beats in drop, latency and size at once."""
        forms = [self.baseline, *(c for c in self.candidates if not c.refused)]
        return [f for f in forms if not any(_dominates(g, f) for g in forms)]

    def as_json(self) -> dict[str, Any]:
        """The ledger: what `result.json` holds and the report is made of."""
        return {
            "packlight": 1,
            "name": self.name,
            "task": self.task,
            "metric": self.metric,
            "target": self.target,
            "budget": str(self.budget),
            "limits": _limits(self.budget, self.baseline.measurements),
            "met": self.met,
            "proven": self.proven,
            "reason": self.reason,
            "notes": list(self.notes),
            "baseline": self.baseline.as_json(),
            "best": self.best.as_json(),
            "candidates": [c.as_json() for c in self.candidates],
            "skipped": dict(self.skipped),
            "throughput": {f: {str(n): m.as_json() for n, m in t.items()} for f, t in self.throughput.items()},
            "workload": dict(self.workload),
            "machine": dict(self.machine),
            "versions": dict(self.best.artifact.manifest["versions"]),
            "seconds": self.seconds,
        }

    def report(self, path: str | Path) -> Path:
        """Write the self-contained HTML page; returns its path."""
        from packlight.report.page import render

        path = Path(path)
        write_text(path, render(self.as_json()))
        return path

    def save(self, folder: str | Path) -> Path:
        """Write the best artifact with its manifest, result.json and report.html into a folder; returns it.

        All are complete before the first takes its place.
        """
        folder = Path(folder)
        make_folder(folder)
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".packlight-") as staging:
                self._write(Path(staging))
                for file in sorted(Path(staging).iterdir()):
                    os.replace(file, folder / file.name)
        except OSError as error:
            raise PacklightError(f"cannot write to folder {folder}: {error.strerror or error}") from error
        return folder

    def _write(self, folder: Path) -> None:
        self.best.save(folder)
        write_text(folder / "result.json", json.dumps(self.as_json(), indent=2, allow_nan=False) + "\n")
        self.report(folder / "report.html")


def _limits(budget: Budget, baseline: Mapping[str, Measurement]) -> dict[str, float]:
    """Measurement → the largest value that the budget allows; a relative latency also in milliseconds."""
    found: dict[str, float] = {}
    for limit in budget.limits:
        bounds = {limit.measurement: limit.bound(baseline)}
        if limit.measurement == "latency_ratio":
            bounds["latency_ms"] = bounds["latency_ratio"] * baseline["latency_ms"].value
        for name, bound in bounds.items():
            found[name] = min(bound, found.get(name, bound))
    return found


def _dominates(a: Form, b: Form) -> bool:
    pairs = [(a.measurements[k].value, b.measurements[k].value) for k in _COMPARED]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

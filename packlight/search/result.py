"""What a search found: the baseline, every form that was tried, the best, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packlight.files import make_folder, write_text
from packlight.measure import Measurement
from packlight.model import Model
from packlight.search.budget import Budget, Verdict
from packlight.targets.artifact import Artifact


@dataclass
class Form:
    """One way to ship the network. recipe: its steps, in words. measurements: name → Measurement; quality and
    drop are of `split`. refused: why it must not be shipped, "" when it may. layers: a row an operator."""

    name: str
    recipe: str
    model: Model
    artifact: Artifact
    measurements: dict[str, Measurement]
    split: str
    refused: str = ""
    layers: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: str | Path) -> Artifact:
        """Copy the file and its manifest, the measured numbers included, into a folder."""
        numbers = {k: m.as_json() for k, m in self.measurements.items()}
        return self.artifact.save(folder, {"measurements": numbers, "measured_on": self.split})

    def as_json(self) -> dict[str, Any]:
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
    """The answer of `compress`. met, proven and reason are about `best`, on the test data where there is some."""

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
    seconds: float = 0.0

    @property
    def met(self) -> bool:
        return self.verdict.met

    @property
    def proven(self) -> bool:
        return self.verdict.proven

    @property
    def reason(self) -> str:
        return self.verdict.reason

    @property
    def task_metric(self) -> str:
        """The metric's name with its unit, e.g. "accuracy %"."""
        return f"{self.metric} {self.baseline.measurements['quality'].unit}"

    @property
    def frontier(self) -> list[Form]:
        """Forms that no other beats in drop, latency and size at once."""
        keys = ("drop_points", "latency_ms", "file_bytes")
        forms = [self.baseline, *(c for c in self.candidates if not c.refused)]
        return [f for f in forms if not any(_dominates(g, f, keys) for g in forms)]

    def as_json(self) -> dict[str, Any]:
        return {
            "packlight": 1,
            "name": self.name,
            "task": self.task,
            "metric": self.metric,
            "target": self.target,
            "budget": str(self.budget),
            "met": self.met,
            "proven": self.proven,
            "reason": self.reason,
            "baseline": self.baseline.as_json(),
            "best": self.best.as_json(),
            "candidates": [c.as_json() for c in self.candidates],
            "skipped": dict(self.skipped),
            "throughput": {f: {str(n): m.as_json() for n, m in t.items()} for f, t in self.throughput.items()},
            "workload": dict(self.workload),
            "machine": dict(self.machine),
            "seconds": self.seconds,
        }

    def report(self, path: str | Path) -> Path:
        """Write the self-contained HTML page; returns its path."""
        from packlight.report.page import render

        path = Path(path)
        write_text(path, render(self.as_json()))
        return path

    def save(self, folder: str | Path) -> Path:
        """Write the best artifact with its manifest, result.json and report.html into a folder; returns it."""
        folder = Path(folder)
        make_folder(folder)
        self.best.save(folder)
        write_text(folder / "result.json", json.dumps(self.as_json(), indent=2) + "\n")
        self.report(folder / "report.html")
        return folder


def _dominates(a: Form, b: Form, keys: Sequence[str]) -> bool:
    pairs = [(a.measurements[k].value, b.measurements[k].value) for k in keys]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

"""One case, measured: build every form, judge it on the test samples, time all of them in one run.

Runs in a process of its own and prints one JSON line, {"findings": […]}: the fields of ledger rows that the case knows.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import packlight as pl
from benchmarks import ROOT, SCRATCH
from benchmarks.case import Absent, Case
from benchmarks.environments import python_for
from benchmarks.forms import FLOAT, Form, discover
from benchmarks.interleave import ROUNDS, interleave, latency, ratio
from benchmarks.job import make_job
from benchmarks.ledger import FAILED, SKIPPED, Finding, finding, packed
from benchmarks.process import WorkerFailure
from benchmarks.runner import FormRunner
from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.intervals import is_zero_one
from packlight.measure.quality import Scores, evaluate
from packlight.task import Task
from packlight.task.metrics import decisions, scored

_BUILD_LIMIT_S = {True: 240.0, False: 2400.0}


class CaseRun:
    """The findings of one case so far, and the runners that are alive."""

    def __init__(self, case: Case, quick: bool):
        self.case, self.quick = case, quick
        self.findings: list[Finding] = []
        self.runners: dict[str, FormRunner] = {}
        self.baseline: Scores | None = None
        self.float_bytes = 0.0

    def measure(self, listing: Callable[[], tuple[list[Form], dict[str, str]]] = discover) -> list[Finding]:
        """Measure the forms that fit the case's network; a failure is a finding, never lost."""
        try:
            self._measure(listing)
        except PacklightError as error:
            self.without_number("", SKIPPED if isinstance(error, Absent) else FAILED, str(error))
        finally:
            for runner in self.runners.values():
                runner.close()
        return self.findings

    def _measure(self, listing: Callable[[], tuple[list[Form], dict[str, str]]]) -> None:
        model, task = self.case.load(self.quick)
        folder = SCRATCH / "jobs" / f"{self.case.name}-{'quick' if self.quick else 'full'}"
        make_job(folder, self.case, model, task, self.quick)
        forms, refused = listing()
        for peer, reason in refused.items():
            self.without_number(peer, SKIPPED, reason)
        for form in forms:
            if form.fits(self.case.network, self.quick):
                self._start(form, folder, task)
                if FLOAT not in self.runners:
                    raise PacklightError("there is no float file to compare with")
        self._time()
        self._memory()

    def number(self, form: str, what: str, m: Measurement, batch: int | None = None, **detail: Any) -> None:
        """Record a measured number, with the versions of what ran it."""
        self.findings.append(finding(form, what, m, batch=batch, versions=self.runners[form].versions, **detail))

    def without_number(self, form: str, what: str, reason: str) -> None:
        """Record that a form (or with "", the case) was skipped or failed, and why, without this machine's paths."""
        reason = reason.replace(f"{ROOT}/", "")
        self.findings.append(finding(form, what, reason=reason))
        _say(f"  {form or self.case.name} {what}: {reason}")

    def _start(self, form: Form, folder: Path, task: Task) -> None:
        label = form.label
        try:
            runner = FormRunner(form, folder, python_for(form.peer), _BUILD_LIMIT_S[self.quick])
        except PacklightError as error:
            self.without_number(label, SKIPPED, str(error))
            return
        except WorkerFailure as failure:
            self.without_number(label, FAILED, str(failure))
            return
        self.runners[label] = runner
        self.float_bytes = self.float_bytes or runner.bytes
        self.number(label, "file_bytes", Measurement.exact(runner.bytes, "bytes"), options=runner.options)
        self.number(label, "times_smaller", Measurement.exact(self.float_bytes / runner.bytes, "×"))
        self.number(label, "build_s", Measurement.exact(runner.build_s, "s"))
        for what in ("parameters", "macs"):
            if isinstance(count := runner.options.get(what), int):
                self.number(label, what, Measurement.exact(count, what))
        said = f"{runner.bytes / 1e3:,.1f} kB, built in {runner.build_s:.1f} s"
        if self.case.trained:
            try:
                said += self._judge(label, runner, task, folder)
            except (WorkerFailure, PacklightError) as failure:
                self._fail(label, failure)
                return
        _say(f"  {label}: {said}")

    def _judge(self, label: str, runner: FormRunner, task: Task, folder: Path) -> str:
        """Accuracy, and drop and agreement against the float file, on the test samples."""
        test = np.load(folder / "test.npz")
        scores = scores_of(runner.predict("test", len(test["y"])), test["y"], task)
        self.baseline = self.baseline or scores
        quality, drop = scores.measurement, scores.drop_from(self.baseline)
        outcomes: dict[str, Any] = {}
        if is_zero_one(scores.rows):
            outcomes = {"right": packed(scores.rows[:, 0] == 1), "data": digest(test)}
        self.number(label, task.measure_with.name, quality, **outcomes)
        self.number(label, "drop_points", drop)
        self.number(label, "agreement", scores.agreement_with(self.baseline))
        if not self.quick and isinstance(model := runner.options.get("model"), str):
            simulated = evaluate(pl.load(folder / model), task, "test")
            self.number(label, "model_agreement", scores.agreement_with(simulated))
        return f", {task.measure_with.name} {quality}, drop {drop}"

    def _time(self) -> None:
        for batch in self.case.quick_batches if self.quick else self.case.batches:
            rounds = interleave(self.runners, batch, ROUNDS[self.quick], self._fail)
            for label, mine in rounds.items():
                shown = [float(f"{seconds:.4g}") for seconds in mine]
                self.number(label, "latency_ms", latency(mine), batch, rounds=shown)
                if FLOAT in rounds:
                    self.number(label, "latency_ratio", found := ratio(mine, rounds[FLOAT]), batch)
                    _say(f"  {label}, batch {batch}: {latency(mine)}, {found} of float")

    def _memory(self) -> None:
        for label, runner in list(self.runners.items()):
            with contextlib.suppress(WorkerFailure):  # an extra that not every system can tell
                self.number(label, "peak_memory_bytes", Measurement.exact(runner.memory(), "bytes"))

    def _fail(self, label: str, failure: Exception) -> None:
        self.runners.pop(label).close()
        self.without_number(label, FAILED, str(failure))


def scores_of(logits: NDArray[Any], labels: NDArray[Any], task: Task) -> Scores:
    """Logits [n, classes, …] of a split as the task scores them."""
    return Scores(scored(task.measure_with, (logits,), labels), decisions((logits,)), task.measure_with)


def digest(arrays: Any) -> str:
    """Which samples they are: twelve hex digits of the content of inputs and labels."""
    seen = hashlib.sha256()
    for name in sorted(arrays):
        seen.update(np.ascontiguousarray(arrays[name]).tobytes())
    return seen.hexdigest()[:12]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

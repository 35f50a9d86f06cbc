"""The main job in its first form: try the forms a runtime offers, measure each on it, ship the best.

The baseline is the fair one: the float network with batch norm folded, as the same exporter writes it. A
form whose latency ratio lies wholly above 1.02, whose file is larger, or whose file does not compute
what the Model computes, is refused. Choices are made on validation data; the verdict on the best is on test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.machine import describe
from packlight.model import Model
from packlight.search.budget import Budget, Verdict
from packlight.search.candidates import Candidate, candidates
from packlight.search.choose import choose, explained, fits
from packlight.search.prepare import prepare
from packlight.search.result import Form, Result
from packlight.search.workbench import Workbench
from packlight.targets import Target
from packlight.task import Task


def compress(
    model: Model,
    task: Task,
    target: Target,
    budget: Budget,
    *,
    exclude: str | Sequence[str] = (),
    prove: bool = False,
    time_limit: float | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Result:
    """Find the best form of a Model for a target within a budget; always returns the best there is.

    exclude: layer-name patterns that stay in float. prove: choose only forms that keep the budget with the bad ends
    of their intervals. time_limit: seconds after which no further form is tried. on_stage: told what is being done.
    The result holds its files in a temporary folder until saved.
    """
    began = time.monotonic()
    target.require()
    ground = prepare(model, task, exclude)
    notes = _about_data(task)
    with Workbench(ground, target, on_stage) as bench:
        baseline = bench.baseline()
        deadline = None if time_limit is None else began + time_limit
        wanted = candidates(ground.model, target, ground.exclude)
        tried, skipped = _try_all(bench, wanted, baseline, budget, prove, deadline)
        best = choose(baseline, tried, budget, prove=prove)
        baseline, best, verdict = _judge(bench, baseline, best, budget, notes)
        rates = _throughput(bench, [baseline, best], notes)
    return Result(
        name=model.name, task=task.name, metric=task.measure_with.name, target=target.name, budget=budget,
        baseline=baseline, best=best, candidates=tried, verdict=explained(verdict, best, baseline, tried, budget),
        machine=describe(), workload={"batch": task.workload.batch, "threads": task.workload.threads},
        skipped=skipped, throughput=rates, notes=notes, seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip


def _try_all(
    bench: Workbench, wanted: Sequence[Candidate], baseline: Form, budget: Budget, prove: bool, deadline: float | None
) -> tuple[list[Form], dict[str, str]]:
    """The forms that were measured, and why the others were not."""
    tried: list[Form] = []
    skipped: dict[str, str] = {}
    for candidate in wanted:
        if deadline is not None and time.monotonic() > deadline:
            skipped[candidate.name] = "the time limit was reached"
        elif reason := _needless(candidate, tried, baseline, budget, prove):
            skipped[candidate.name] = reason
        else:
            try:
                tried.append(bench.measure(candidate))
            except PacklightError as error:
                skipped[candidate.name] = " ".join(str(error).split())
    return tried, skipped


def _needless(candidate: Candidate, tried: Sequence[Form], baseline: Form, budget: Budget, prove: bool) -> str:
    """Why a stand-in need not be tried, "" when it must be."""
    if candidate.instead_of is None:
        return ""
    first = next((f for f in tried if f.name == candidate.instead_of), None)
    if first is None:
        return f"it stands in for {candidate.instead_of}, which could not be measured"
    if first.refused:
        return f"it stands in for {first.name}, which was refused for what both have in common"
    return f"{first.name} keeps the budget already" if fits(first, budget, baseline, prove=prove) else ""


def _judge(
    bench: Workbench, baseline: Form, best: Form, budget: Budget, notes: list[str]
) -> tuple[Form, Form, Verdict]:
    """Both forms as the verdict sees them, and the verdict: on test data where there is some besides the search's.

    Test data that turn out to be unusable do not cost the search: then nothing counts as met.
    """
    broken = ""
    if bench.ground.split != "test" and bench.ground.task.test is not None:
        try:
            baseline, best = bench.on_test(baseline, best)
        except PacklightError as error:
            broken = f"no verdict on test data: {' '.join(str(error).split())}"
            notes.append(broken)
    verdict = budget.judge(best.measurements, baseline.measurements)
    return baseline, best, Verdict(False, False, broken, verdict.excess) if broken else verdict


def _throughput(bench: Workbench, forms: Sequence[Form], notes: list[str]) -> dict[str, dict[int, Measurement]]:
    rates: dict[str, dict[int, Measurement]] = {}
    for form in forms:
        if form.name not in rates:
            try:
                rates[form.name] = bench.throughput(form)
            except PacklightError as error:
                notes.append(f"throughput of {form.name} was not measured: {' '.join(str(error).split())}")
    return rates


def _about_data(task: Task) -> list[str]:
    """What to keep in mind when a task lacks the data for a choice and a verdict on separate samples."""
    if task.validation is None:
        return ["no validation data: choice and verdict are on the same test data, which flatters the choice"]
    if task.test is None:
        return ["no test data: choice and verdict are on the same validation data, which flatters the choice"]
    return []

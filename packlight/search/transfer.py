"""A classifier for new classes out of a trained one: modes of transfer tried within a time, the best kept.

The cheapest mode comes first. Choices look at validation data only, so the winner's number there flatters it: give a
verdict on test data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import numpy as np

from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.quality import Scores, evaluate
from packlight.model import Model
from packlight.task import Task
from packlight.train.head import replace_head
from packlight.train.options import Fit
from packlight.train.transfer import MODES, STANDARD, Transfer, trained_parameters

_BACKWARD = 3.0  # a training step in forward passes: one there, about two back


@dataclass(frozen=True)
class Tried:
    """A mode that was tried. validation: the task's metric there. drop: how much worse than the best, paired, on the
    same samples. seconds: of training. trained: parameters that moved."""

    mode: str
    validation: Measurement
    drop: Measurement
    seconds: float
    trained: int


@dataclass(frozen=True)
class TransferResult:
    """The best network, its mode, and how all modes compare, in the order in which they were tried. skipped: mode → why
    it was not tried. metric: what is compared, on validation data."""

    model: Model
    best: str
    rows: tuple[Tried, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    metric: str = "accuracy"
    classes: int = 2
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values, the Model by its lineage."""
        rows = [
            {"mode": r.mode, "validation": r.validation.as_json(), "drop": r.drop.as_json(),
             "seconds": round(r.seconds, 3), "trained_parameters": r.trained}
            for r in self.rows
        ]  # fmt: skip
        return {
            "packlight": 1, "best": self.best, "metric": self.metric, "split": "validation", "classes": self.classes,
            "lineage": [str(step) for step in self.model.lineage], "modes": rows, "skipped": dict(self.skipped),
            "seconds": round(self.seconds, 3),
        }  # fmt: skip

    def table(self) -> str:
        """The comparison in Markdown."""
        n = self.rows[0].validation.n
        lines = [
            f"| mode | {self.metric}, validation (n = {n:,}) | behind the best | trained parameters | seconds |",
            "|---|---|---|---|---|",
        ]
        for r in self.rows:
            behind, name = ("the best", f"**{r.mode}**") if r.mode == self.best else (str(r.drop), r.mode)
            lines.append(f"| {name} | {r.validation} | {behind} | {r.trained:,} | {r.seconds:.1f} |")
        lines += [f"| {mode} | not tried: {_cell(why)} | | | |" for mode, why in self.skipped.items()]
        return "\n".join(lines)


def transfer(
    model: Model,
    task: Task,
    classes: int | None = None,
    *,
    modes: Sequence[str] = tuple(MODES),
    time_limit_s: float | None = None,
    options: Transfer = STANDARD,
    on_stage: Callable[[str], None] = lambda text: None,
) -> TransferResult:
    """Give a classifier a head for the task's classes, train it in several modes, and return what does best on the
    validation data.

    classes: >= 2; as many as the training targets have when not given. modes: of "extract", "adapt", "unfreeze" and
    "full". time_limit_s: > 0, shared out among the modes that are left; one without the time for an epoch is skipped.
    What ends by time is not the same twice. Mode extract reads the training data once, and every network is scored,
    whatever the limit. on_stage: told what is being done.
    """
    wanted = _checked(modes, time_limit_s)
    task.data("validation")
    bench = _Bench(replace_head(model, _classes(task, classes), options.head.seed), task, options, on_stage)
    deadline = None if time_limit_s is None else bench.began + time_limit_s
    for i, mode in enumerate(wanted):
        share = None if deadline is None else (deadline - monotonic()) / (len(wanted) - i)
        bench.attempt(mode, share)
    return bench.result()


class _Bench:
    """One comparison in progress."""

    def __init__(self, fresh: Model, task: Task, options: Transfer, on_stage: Callable[[str], None]):
        self.began = monotonic()
        self.fresh, self.task, self.options, self.on_stage = fresh, task, options, on_stage
        self.start = fresh
        self.made: dict[str, Model] = {}
        self.scores: dict[str, Scores] = {}
        self.seconds: dict[str, float] = {}
        self.trained: dict[str, int] = {}
        self.skipped: dict[str, str] = {}
        self.epoch_s = 0.0  # an estimate; 0 while there is none
        self.around_s = 0.0  # what a mode takes besides training: preparing, scoring

    def attempt(self, mode: str, share_s: float | None) -> None:
        """Train and score a mode within its share of the time, or note why not."""
        began = monotonic()
        limit_s = None if share_s is None else share_s - self.around_s
        if limit_s is not None and limit_s <= self.epoch_s:
            self.skipped[mode] = f"an epoch takes about {self.epoch_s:.2g} s, {max(0.0, limit_s):.2g} s are left for it"
            return
        try:
            self.trained[mode] = trained_parameters(self.fresh, mode, self.options)
            self.on_stage(f"{mode}: training {self.trained[mode]:,} parameters")
            before = monotonic()
            made = MODES[mode](self.start, self.task, _within(self.options, limit_s), None)
            self.seconds[mode] = monotonic() - before
        except PacklightError as error:
            self.skipped[mode] = " ".join(str(error).split())
            return
        self.on_stage(f"{mode}: scoring on validation data")
        before = monotonic()
        self.scores[mode] = evaluate(made, self.task, "validation")
        each = (monotonic() - before) / len(self.scores[mode].rows)
        self.epoch_s = _BACKWARD * each * len(self.task.data("train"))
        self.made[mode] = made
        if mode == "extract" and self.options.probe:
            self.start = made
        if limit_s is not None:
            self.around_s = max(self.around_s, monotonic() - began - limit_s)

    def result(self) -> TransferResult:
        if not self.made:
            why = "; ".join(f"{mode}: {reason}" for mode, reason in self.skipped.items())
            raise PacklightError(f"no mode of transfer could be tried: {why}")
        metric = self.task.measure_with
        sign = 1 if metric.higher_is_better else -1
        measured = {mode: scores.measurement for mode, scores in self.scores.items()}
        best = max(self.made, key=lambda mode: sign * measured[mode].value)  # of equals the cheapest
        rows = tuple(
            Tried(mode, measured[mode], scores.drop_from(self.scores[best]), self.seconds[mode], self.trained[mode])
            for mode, scores in self.scores.items()
        )
        classes = self.fresh.outputs[0].shape[-1]
        assert isinstance(classes, int)
        return TransferResult(self.made[best], best, rows, self.skipped, metric.name, classes, monotonic() - self.began)


def _checked(modes: Sequence[str], time_limit_s: float | None) -> list[str]:
    """The modes from the cheapest on."""
    if isinstance(modes, str) or not modes or set(modes) - set(MODES):
        raise PacklightError(f"modes of transfer are {', '.join(MODES)}: name one or more, got {modes!r}")
    if time_limit_s is not None and not time_limit_s > 0:
        raise PacklightError(f"transfer needs time_limit_s > 0 seconds, got {time_limit_s}")
    return [mode for mode in MODES if mode in modes]


def _classes(task: Task, given: int | None) -> int:
    """How many classes there are, after a look at the training targets."""
    seen: set[int] = set()
    for batch in task.data("train").batches(1 << 12):
        if batch.targets is None:
            raise PacklightError(f"the train data of task {task.name!r} has no targets; give Task(train=(x, y))")
        if batch.targets.ndim != 1 or batch.targets.dtype.kind not in "iu":
            what = f"{batch.targets.dtype} {list(batch.targets.shape)}"
            raise PacklightError(f"transfer needs targets that are classes, whole numbers [n], got {what}")
        seen |= set(np.unique(batch.targets).tolist())
    classes = len(seen) if given is None else given
    if outside := sorted(c for c in seen if not 0 <= c < classes):
        raise PacklightError(
            f"targets must be 0 to {classes - 1} for {classes} classes, got {', '.join(map(str, outside[:5]))} "
            "as well; renumber them, or give classes="
        )
    return classes


def _within(options: Transfer, limit_s: float | None) -> Transfer:
    """The options with runs that end in time."""
    if limit_s is None:
        return options
    return replace(options, fit=_ending(options.fit, limit_s), head=_ending(options.head, limit_s))


def _ending(fit: Fit, limit_s: float) -> Fit:
    limit = min(limit_s, fit.schedule.time_s or limit_s)
    return replace(fit, schedule=replace(fit.schedule, time_s=limit))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

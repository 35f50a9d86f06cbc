"""What the training commands share: options, progress, results in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.cli import show
from packlight.errors import PacklightError

if TYPE_CHECKING:
    from packlight.search.distill import Distilled
    from packlight.train import Progress, Recipe


def recipe(
    path: Path | None, epochs: float | None, rate: float | None, batch: int | None, seed: int | None, time: str | None
) -> Recipe:
    """The file's recipe with what the command line overrules."""
    from packlight.search.budget import parse_time
    from packlight.train import Recipe, read_recipe

    found = read_recipe(path) if path is not None else Recipe()
    given: dict[str, Any] = {"epochs": epochs, "learning_rate": rate, "batch": batch, "seed": seed}
    fit = replace(found.fit, **{name: value for name, value in given.items() if value is not None})
    if epochs is not None:  # a recipe's steps would overrule it
        fit = replace(fit, schedule=replace(fit.schedule, steps=None))
    if time is not None:
        fit = replace(fit, schedule=replace(fit.schedule, time_s=parse_time(time)))
    return replace(found, fit=fit)


def shown(advance: Callable[..., None]) -> Callable[[Progress], None]:
    """A progress bar told of training steps."""

    def on_step(p: Progress) -> None:
        score = "" if p.validation is None else f", validation {p.validation:.2f}"
        advance(p.share, 1.0, f"step {p.step:,}, loss {p.loss:.3f}{score}, {p.rate:.1f} steps/s")

    return on_step


def first_process() -> bool:
    """Whether this is the process of a run that writes files and prints; torchrun says which."""
    return int(os.environ.get("RANK", "0")) == 0


def check_log(log: Path | None) -> None:
    """Refuse a log that its own page would be written over."""
    if log is not None and log.suffix == ".html":
        raise PacklightError(f"--log {log}: the log is JSON lines, its page is written beside it; name it run.jsonl")


def plot(log: Path) -> None:
    """The page beside a log that plots it."""
    from packlight.files import write_text
    from packlight.report.training import page

    out = log.with_suffix(".html")
    write_text(out, page(log.read_text(encoding="utf-8"), log.stem))
    show.line(f"wrote {out}")


def keep(found: Any, out: Path, as_json: bool, tell: Callable[[Any], None]) -> None:
    """Save the Model of a comparison and show the comparison; the first process alone does."""
    if not first_process():
        return
    found.model.save(out)
    if as_json:
        show.as_json({"wrote": str(out), **found.as_json()})
        return
    tell(found)
    show.line(f"wrote {out}: {found.model!r}")


def show_distilled(found: Distilled) -> None:
    rows: list[list[Any]] = [
        [name, str(quality), f"{found.seconds[name]:.0f}" if name in found.seconds else ""]
        for name, quality in found.quality.items()
    ]
    show.table(["network", f"quality, {found.split} data", "seconds"], rows)
    show.line(f"the teacher took {found.teacher_s:.0f} s of the distilled student's training")
    if found.gain is not None:
        sure = "" if found.gain.low > 0 else " (not shown to differ from none)" if found.gain.high >= 0 else " (worse)"
        show.line(f"what the teacher was worth: {found.gain}{sure}")

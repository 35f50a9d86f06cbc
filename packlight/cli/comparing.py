"""`packlight compare`: one network on several runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packlight.cli import outputs, progress, show
from packlight.cli.options import ExcludeOption, JsonOption, ModelArgument, TaskOption


def compare(
    model: ModelArgument,
    task: TaskOption,
    targets: Annotated[
        str | None, typer.Option(help="Runtimes as a,b,c. Default: all that are installed here.")
    ] = None,
    split: Annotated[str, typer.Option(help="Labelled data to score on: test, validation or train.")] = "test",
    exclude: ExcludeOption = None,
    plot: Annotated[Path | None, typer.Option(help="An .html page to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """One float network on several runtimes: every form of each, proven, scored, and timed in one run."""
    from packlight.api.measuring import compare as compared
    from packlight.api.opening import load

    outputs.check_page(plot, "--plot")
    with progress.stages(as_json) as stage:
        found = compared(
            load(model), task, target=targets.split(",") if targets else (), split=split, exclude=exclude or (),
            on_stage=stage,
        ).as_json()  # fmt: skip
    if plot is not None:
        from packlight.files import write_text
        from packlight.report.comparison import page

        write_text(plot, page(found))
    if as_json:
        show.as_json(found | ({"wrote": str(plot)} if plot else {}))
        return
    show.comparison(found)
    if plot is not None:
        show.line()
        show.line(f"wrote {plot}")

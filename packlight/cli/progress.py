"""Progress of long work, on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stages(quiet: bool) -> Iterator[Any]:
    """A function that shows what is being done: a spinner with the time on a terminal, else a line each.

    quiet: show nothing, and send what others print on standard output to standard error.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if quiet:
        with contextlib.redirect_stdout(sys.stderr):
            yield lambda text: None
    elif not console.is_terminal:
        yield lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("loading", total=None)
            yield lambda text: progress.update(bar, description=text)


@contextmanager
def steps(what: str, quiet: bool) -> Iterator[Any]:
    """A bar with rate and time left; the yielded function takes (done, total, text), or just one more done.

    On no terminal nothing is shown; quiet: nor on one, and what others print goes to standard error.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        shown = not quiet and console.is_terminal
        progress = stack.enter_context(Progress(*columns, console=console, transient=True, disable=not shown))
        bar = progress.add_task(what, total=None, text="")

        def advance(done: float = 1, of: float | None = None, text: str = "") -> None:
            if of is None:
                progress.advance(bar, done)
            else:
                progress.update(bar, completed=done, total=of, text=text)

        yield advance


@contextmanager
def stages_and_steps(what: str, quiet: bool, training: bool) -> Iterator[Any]:
    """Both functions, of one display: stages, and the steps of the training that is one of them."""
    if not training:
        with stages(quiet) as stage:
            yield stage, lambda *_: None
        return
    with steps(what, quiet) as advance:
        yield lambda text: advance(0.0, 1.0, text), advance

"""The command line: parse, call the API, print. Exit codes: 0 done, 1 budget not met, 2 bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import packlight as pl
from packlight.errors import ChildFailure, PacklightError

if TYPE_CHECKING:
    from packlight.search.result import Result

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Take a trained network, make it smaller and faster, and prove on the real runtime that it still works.",
)  # fmt: skip

# typer keeps a click of its own; this is the public way to its base class of command-line mistakes.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

ModelArgument = Annotated[str, typer.Argument(help="A saved .plm file, or module:factory of your own code.")]
TaskOption = Annotated[
    str, typer.Option("--task", help="fashion-mnist, fashion-mnist-demo, or a .py file that defines `task`.")
]
TargetOption = Annotated[str, typer.Option("--target", help="The runtime; `packlight targets` lists them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
ExcludeOption = Annotated[
    list[str] | None, typer.Option("--exclude", help="Layer-name pattern to leave in float; may be repeated.")
]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        _say_error(error.format_message() + "; see `packlight --help`")  # type: ignore[attr-defined]
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        _say_error("interrupted")
        code = 130
    except ChildFailure as error:
        if error.log:
            sys.stderr.write(error.log.rstrip() + "\n")
        _say_error(str(error))
        code = 2
    except PacklightError as error:
        _say_error(str(error))
        code = 2
    sys.exit(code or 0)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"packlight {pl.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def inspect(model: ModelArgument, batch: int = 1, as_json: JsonOption = False) -> None:
    """Layers, parameters, MACs, bytes and peak activation memory of a network."""
    from dataclasses import asdict

    network = pl.load(model)
    counted = pl.statistics(network, batch)
    if as_json:
        _print_json({"model": repr(network), "notes": list(network.notes), **asdict(counted)})
        return
    rows = [
        [r.name, r.operator, "×".join(map(str, r.output)), f"{r.params:,}", f"{r.macs:,}", f"{r.weight_bytes:,}",
         str(r.weight_bits or "")]
        for r in counted.layers
    ]  # fmt: skip
    _table(["layer", "operator", "output", "params", "MACs", "bytes", "bits"], rows)
    typer.echo(f"\n{network!r}")
    typer.echo(
        f"{counted.params:,} parameters, {counted.macs:,} MACs and {counted.peak_activation_bytes:,} bytes of "
        f"activations at batch {batch}, {counted.weight_bytes:,} bytes of weights"
    )
    for note in network.notes:
        typer.echo(f"note: {note}")


@app.command()
def quantize(
    model: ModelArgument,
    task: TaskOption,
    out: Annotated[Path, typer.Option("--out", help="The .plm file to write.")],
    target: TargetOption = "onnxruntime",
    exclude: ExcludeOption = None,
    ranges: Annotated[str, typer.Option(help="mse or minmax.")] = "mse",
    samples: Annotated[int, typer.Option(help="Calibration samples to run.")] = 256,
) -> None:
    """Quantize a network to int8 for a target and save it as a .plm file."""
    _writable(out)
    with _progress("calibrating", None) as advance:
        made = pl.quantize(
            pl.load(model), task, target=target, ranges=ranges, samples=samples,
            exclude=exclude or (), on_batch=lambda: advance(1),
        )  # fmt: skip
    made.save(out)
    for note in made.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"wrote {out}: {made!r}")


@app.command()
def finetune(
    model: ModelArgument,
    task: TaskOption,
    out: Annotated[Path, typer.Option("--out", help="The .plm file to write.")],
    epochs: Annotated[float, typer.Option(help="Passes over the training data.")] = 1.0,
    learning_rate: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 0.01,
    teacher: Annotated[str | None, typer.Option(help="A network to distil from.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="File that a killed run resumes from.")] = None,
    seed: int = 0,
) -> None:
    """Train a network further on the task's training data, with distillation when a teacher is given."""
    _writable(out)
    with _progress("training", 1) as advance:
        made = pl.finetune(
            pl.load(model), task, epochs=epochs, learning_rate=learning_rate, options=pl.Fit(seed=seed),
            teacher=pl.load(teacher) if teacher else None, checkpoint=checkpoint,
            on_step=lambda p: advance(p.step, p.steps, f"loss {p.loss:.3f}, {p.rate:.1f} steps/s"),
        )  # fmt: skip
    made.save(out)
    typer.echo(f"wrote {out}: {made!r}")


@app.command()
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="The file to write, e.g. model.onnx.")],
    target: TargetOption = "onnxruntime",
    form: Annotated[str | None, typer.Option(help="How float weights are stored: float32 or float16.")] = None,
    task: Annotated[str | None, typer.Option(help="Task whose preprocessing the manifest states.")] = None,
) -> None:
    """Write a network as a file for a runtime, with a manifest beside it."""
    _writable(out)
    artifact = pl.export(pl.load(model), out, target=target, form=form, task=task)
    typer.echo(f"wrote {artifact.path} ({artifact.bytes:,} bytes)")


@app.command()
def measure(
    artifact: Annotated[str, typer.Argument(help="An exported file or folder; a .plm file for quality only.")],
    task: TaskOption,
    baseline: Annotated[str | None, typer.Option(help="An exported file to compare with.")] = None,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    as_json: JsonOption = False,
) -> None:
    """Measure a file on its runtime: quality, latency, memory and size, with intervals."""
    measured: Any = pl.Model.load(artifact) if artifact.endswith(".plm") else artifact
    with _stages(as_json) as stage:
        stage(f"measuring {artifact}")
        found = pl.measure(measured, task, baseline=baseline, split=split)
    if as_json:
        _print_json({k: m.as_json() for k, m in found.items()})
        return
    _table(["measurement", "value", "low", "high", "unit", "n"], [_row(k, m) for k, m in found.items()])


@app.command()
def compress(
    model: ModelArgument,
    task: TaskOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the artifact, result.json and report.html.")],
    target: TargetOption = "onnxruntime",
    budget: Annotated[str, typer.Option(help='e.g. "drop<=0.3points, size<=500kB, latency:min".')] = (
        "drop<=1%, latency:min"
    ),
    time: Annotated[str | None, typer.Option("--time", help="No further form is tried after, e.g. 20m.")] = None,
    exclude: ExcludeOption = None,
    prove: Annotated[bool, typer.Option("--prove", help="Exit with 1 unless the budget is proven.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Find the smallest and fastest form within a budget, and prove it by measurement."""
    from packlight.files import make_folder

    make_folder(out)
    with _stages(as_json) as stage:
        result = pl.compress(
            pl.load(model), task, target=target, budget=budget, time_limit=time, exclude=exclude or (), on_stage=stage
        )
        result.save(out)
    if as_json:
        _print_json(result.as_json())
    else:
        _show(result, out)
    return 0 if (result.proven if prove else result.met) else 1


@app.command()
def targets(as_json: JsonOption = False) -> None:
    """Runtimes known here, and whether each is installed."""
    from packlight import targets as known

    rows = []
    for name in known.names():
        target = known.get(name)
        try:
            target.require()
            state, versions = "installed", target.versions()
        except PacklightError:
            state, versions = f"missing: {target.install}", {}
        rows.append({"target": name, "state": state, "forms": [*target.forms, "int8"], "versions": versions})
    if as_json:
        _print_json(rows)
        return
    _table(
        ["target", "state", "forms", "versions"],
        [[str(r["target"]), str(r["state"]), ", ".join(r["forms"]), _pairs(r["versions"])] for r in rows],  # type: ignore[arg-type]
    )


@app.command()
def doctor(as_json: JsonOption = False) -> int:
    """Run a tiny float and int8 network on every installed runtime and say what is wrong."""
    from packlight.doctor import diagnose

    findings = diagnose()
    if as_json:
        _print_json([vars(f) for f in findings])
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.subject}: {finding.text}")
    return 0 if all(f.ok for f in findings) else 1


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the artifact, result.json and report.html.")] = Path(
        "demo-out"
    ),
    as_json: JsonOption = False,
) -> int:
    """The main job on real data that ships inside packlight: ResNet-20 on Fashion-MNIST to int8."""
    from packlight.demo import run
    from packlight.files import make_folder

    make_folder(out)
    with _stages(as_json) as stage:
        result = run(stage)
        result.save(out)
    if as_json:
        _print_json(result.as_json())
    else:
        _show(result, out)
    return 0 if result.met else 1


def _show(result: Result, out: Path) -> None:
    """The verdict and a row a form, on standard output."""
    forms = [result.baseline, *(result.best if c.name == result.best.name else c for c in result.candidates)]
    rows = []
    for form in forms:
        m = form.measurements
        mark = "→ " if form.name == result.best.name else "  "
        rows.append([
            mark + form.name, f"{m['file_bytes'].value / 1e3:,.1f}", f"{m['file_ratio'].value:.2f}",
            f"{m['latency_ms'].value:.3f}", f"{1 / m['latency_ratio'].value:.2f}", f"{m['quality'].value:.2f}",
            f"{m['drop_points'].value:+.2f} [{m['drop_points'].low:+.2f}, {m['drop_points'].high:+.2f}]",
            f"{m['agreement'].value:.2f}", form.split, form.refused,
        ])  # fmt: skip
    _table(
        ["form", "kB", "times smaller", "ms", "times faster", result.task_metric, "drop [95 %]", "agree %", "on", ""],
        rows,
    )
    for name, why in result.skipped.items():
        typer.echo(f"  not tried: {name}, {why}")
    state = "met and proven" if result.proven else "met" if result.met else "NOT met"
    typer.echo(f"\nbudget {result.budget}: {state} ({result.reason})")
    typer.echo(f"wrote {result.best.artifact.path.name}, manifest.json, result.json and report.html to {out}/")


def _row(name: str, m: pl.Measurement) -> list[str]:
    return [name, f"{m.value:,.6g}", f"{m.low:,.6g}", f"{m.high:,.6g}", m.unit, f"{m.n:,}"]


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())


def _table(header: list[str], rows: list[list[str]]) -> None:
    """A plain table; columns of numbers are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(header):
        numeric = all(r[i][:1] in "+-0123456789" for r in rows if r[i])
        table.add_column(title, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console = Console(highlight=False)
    Console(width=max(console.width, 100) if not console.is_terminal else None, highlight=False).print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def _say_error(text: str) -> None:
    typer.echo("packlight: " + " ".join(text.split()), err=True)


def _writable(out: Path) -> None:
    """Refuse an output path before any work starts."""
    from packlight.files import make_folder

    if not out.parent.is_dir():
        raise PacklightError(f"cannot write {out}: folder {out.parent} does not exist")
    make_folder(out.parent)


@contextmanager
def _stages(quiet: bool) -> Iterator[Any]:
    """A function that shows what is being done: a spinner with the time on a terminal, else a line each."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        yield lambda text: console.print(text, markup=False, highlight=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting", total=None)
        yield lambda text: progress.update(bar, description=text)


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Any]:
    """A bar with rate and time left; the yielded function takes (done, total, text), or one more done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total, text="")

        def advance(done: float, of: float | None = None, text: str = "") -> None:
            if of is None:
                progress.advance(bar, done)
            else:
                progress.update(bar, completed=done, total=of, text=text)

        yield advance

"""The command line: parse, call the API, print.

Exit codes: 0 done, 1 budget not met (the best is still saved), 2 bad input, 3 a fault of packlight's own,
130 interrupted.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

import packlight as pl
from packlight.cli import (
    comparing,
    converting,
    estimating,
    fitting,
    layers,
    options,
    outputs,
    packing,
    progress,
    pruning,
    sensitivity,
    sharing,
    show,
)
from packlight.cli.options import (
    ExcludeOption,
    InputOption,
    JsonOption,
    ModelArgument,
    OutFile,
    OutFolder,
    TargetOption,
    TargetsOption,
    TaskOption,
    WeightsOption,
    dimension_and_size,
    example_inputs,
)
from packlight.errors import ChildFailure, PacklightError

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Take a trained network, make it smaller and faster, and prove on the real runtime that it still works.",
)  # fmt: skip
_log = logging.getLogger("packlight")
_INTERRUPTED = 128 + signal.SIGINT

# typer keeps a click of its own; this is the public way to its base class of command-line mistakes.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # children and files are cleaned up then
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
        if code == _INTERRUPTED:  # typer makes an exit code of a KeyboardInterrupt
            _fail("interrupted", code)
        sys.stdout.flush()
    except _UsageError as error:
        code = _fail(f"{error.format_message()}; see `packlight --help`")  # type: ignore[attr-defined]
    except (typer.Abort, KeyboardInterrupt):
        code = _fail("interrupted", _INTERRUPTED)
    except ChildFailure as error:
        _log.debug("%s", error.log)
        code = _fail(str(error) + ("; `packlight --verbose …` shows its last words" if error.log else ""))
    except PacklightError as error:
        code = _fail(str(error))
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + 13
    except Exception as error:  # noqa: BLE001  (shown in full; without this it would end with 1, which means something)
        traceback.print_exc()
        code = _fail(f"{type(error).__name__}: this is a fault of packlight's own, please report it", 3)
    sys.exit(code)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"packlight {pl.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more on standard error.")] = False,
) -> None:
    _log.handlers = [logging.StreamHandler(sys.stderr)]
    _log.setLevel(logging.DEBUG if verbose else logging.WARNING)


@app.command()
def inspect(
    model: ModelArgument,
    batch: Annotated[int, typer.Option(min=1, help="Samples at once, for MACs and activations.")] = 1,
    prunable: Annotated[
        bool, typer.Option("--prunable", help="What `prune` can cut, and what is never cut and why, instead.")
    ] = False,
    weights: WeightsOption = None,
    inputs: InputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Layers, parameters, MACs, bytes and peak activation memory of a network."""
    from dataclasses import asdict

    with progress.stages(as_json):
        network = pl.load(model, example_inputs(inputs), weights=weights)
        groups = pl.prunable(network) if prunable else None
        counted = pl.statistics(network, batch)
    if groups is not None:
        pruning.show_prunable(groups, as_json)
    elif as_json:
        show.as_json({"model": repr(network), "notes": list(network.notes), **asdict(counted)})
    else:
        show.statistics(network, counted)


@app.command()
def quantize(
    model: ModelArgument,
    out: OutFile,
    task: Annotated[
        str | None, typer.Option(help="As of the other commands; --mode dynamic and weights do without.")
    ] = None,
    target: TargetsOption = "onnxruntime",
    exclude: ExcludeOption = None,
    ranges: Annotated[str, typer.Option(help="mse, minmax, average, percentile or entropy.")] = "mse",
    samples: Annotated[int, typer.Option(help="Calibration samples to run.")] = 256,
    mode: Annotated[
        str, typer.Option(help="static; dynamic: ranges taken at run time; weights: activations stay in float.")
    ] = "static",
    weights: Annotated[
        str, typer.Option(help="Bits of weights, 2 to 8; with --mode weights also fp8-e4m3, fp8-e5m2, bf16, fp16.")
    ] = "8",
    activations: Annotated[int, typer.Option(help="Bits of activations, 2 to 8; 0 leaves them in float.")] = 8,
    ends: Annotated[int, typer.Option(help="Bits of the first and last layers, where that is more.")] = 8,
    layer: Annotated[
        list[str] | None, typer.Option(help="PATTERN=BITS of weights; may be repeated, the last that fits counts.")
    ] = None,
    mixed: Annotated[
        str | None, typer.Option(help="Bits a weight in the mean; or global, local or mixed with --budget.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Of --mixed: 200kB of weights, 4bits a weight, drop<=0.5points; 20dB of local.")
    ] = None,
    rounding: Annotated[str, typer.Option(help="nearest, gptq, adaround or block.")] = "nearest",
    group: Annotated[
        int, typer.Option(help="With --mode weights: inputs of a linear layer that share a scale; 0: all of them.")
    ] = 32,
    scales: Annotated[str, typer.Option(help="float, or power-of-two: every scale is 2 to an integer.")] = "float",
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="With --mode weights: a zero point beside every scale.")
    ] = False,
    equalize: Annotated[bool, typer.Option("--equalize", help="Even weights across layers first.")] = False,
    correct_bias: Annotated[
        bool, typer.Option("--correct-bias", help="Take the mean error of what each layer hands on out of its bias.")
    ] = False,
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            help="At most 7 bits of a weight, which x86 without VNNI needs. Default: where this machine has none."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Quantize a network for a target, to int8 unless told otherwise, and save it as a .plm file."""
    outputs.check_file(out)
    by_name = dict(options.pattern_and_bits(given) for given in layer or ())
    with progress.steps("calibrating", as_json) as advance:
        made = pl.quantize(
            pl.load(model), task, target=target.split(","), ranges=ranges, samples=samples, exclude=exclude or (),
            mode=mode, weights=options.bits_or_format(weights), activations=activations or None, ends=ends,
            layers=by_name, mixed=options.bits_or_preset(mixed), budget=budget, rounding=rounding,
            group=group or None, symmetric=not asymmetric, scales=scales, equalize=equalize, correct_bias=correct_bias,
            reduce_range=reduce_range, on_batch=advance, on_block=lambda done, of: advance(),
        )  # fmt: skip
        made.save(out)
    outputs.wrote(out, made, as_json)


app.command()(pruning.prune)
app.command()(layers.compare_layers)
app.command()(sharing.share_weights)
app.command()(sensitivity.sensitivity)
app.command()(comparing.compare)
app.command()(converting.convert)
app.command()(estimating.estimate)
app.command()(packing.pack)
app.command()(packing.unpack)
app.command()(packing.info)
app.command()(packing.verify)
app.command()(fitting.finetune)
app.command()(fitting.distill)
app.command()(fitting.transfer)


@app.command()
def export(
    model: ModelArgument,
    out: Annotated[
        Path,
        typer.Argument(help="The file to write, e.g. model.onnx, or a folder for it and for programs that run it."),
    ],
    target: TargetOption = "onnxruntime",
    form: Annotated[str | None, typer.Option(help="How float weights are stored: float32 or float16.")] = None,
    task: Annotated[str | None, typer.Option(help="Task whose preprocessing the manifest states.")] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SIZE of a dynamic dimension, where the runtime fixes sizes, e.g. batch=8."),
    ] = None,
    built_in: Annotated[
        bool, typer.Option("--build-in", help="Build in the task's scale and shift, and what the next three say.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="With --build-in, of the first input: uint8, int8 or float32.")] = "uint8",
    layout: Annotated[str, typer.Option(help="With --build-in, of the first input: NCHW or NHWC.")] = "NCHW",
    after: Annotated[str, typer.Option(help="With --build-in: softmax, sigmoid or argmax of the first output.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Write a network as a file for a runtime, with a manifest beside it."""
    dims = dict(dimension_and_size(d) for d in dim or ())
    with progress.stages(as_json):
        network = pl.load(model)
        if built_in:
            network = pl.build_in(network, task, dtype=dtype, layout=layout, after=after)
        artifact = pl.export(network, out, target=target, form=form, task=task, dims=dims)
    if as_json:
        show.as_json({"wrote": str(artifact.path), **artifact.manifest})
    else:
        show.line(f"wrote {artifact.path} ({artifact.bytes:,} bytes)")


@app.command()
def measure(
    artifact: Annotated[str, typer.Argument(help="An exported file or folder; a .plm file for quality only.")],
    task: TaskOption,
    baseline: Annotated[str | None, typer.Option(help="An exported file to compare with.")] = None,
    split: Annotated[str, typer.Option(help="test, validation, calibration or train.")] = "test",
    as_json: JsonOption = False,
) -> None:
    """Measure a file on its runtime: quality, latency, throughput, memory and size, with intervals."""
    with progress.stages(as_json):
        found = {k: m.as_json() for k, m in pl.measure(artifact, task, baseline=baseline, split=split).items()}
    if as_json:
        show.as_json(found)
    else:
        show.measurements(found)


@app.command()
def compress(
    model: ModelArgument,
    task: TaskOption,
    out: OutFolder,
    target: TargetOption = "onnxruntime",
    budget: Annotated[str, typer.Option(help='e.g. "drop<=0.3points, size<=500kB, latency:min".')] = (
        "drop<=1%, latency:min"
    ),
    time: Annotated[str | None, typer.Option("--time", help="No further form is tried after, e.g. 20m.")] = None,
    exclude: ExcludeOption = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Ship only what keeps the budget with the bad end of every interval.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Find the smallest and fastest form within a budget, and prove it by measurement."""
    with progress.stages(as_json) as stage, outputs.folder(out):
        result = pl.compress(
            pl.load(model), task, target=target, budget=budget, time_limit=time, exclude=exclude or (), prove=prove,
            on_stage=stage,
        )  # fmt: skip
        result.save(out)
    return _found(result, out, as_json, result.proven if prove else result.met)


@app.command()
def targets(
    install: Annotated[
        list[str] | None, typer.Argument(help="install NAME: make the environment of its own that a runtime needs.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Runtimes known here, and whether each is installed."""
    from packlight.doctor import inventory

    if install:
        if install[0] != "install" or len(install) != 2:
            raise PacklightError(f"packlight targets {' '.join(install)}: write `packlight targets install NAME`")
        with progress.stages(as_json) as stage:
            show.line(pl.install_target(install[1], on_stage=stage))
        return

    known = inventory()
    if as_json:
        show.as_json(known)
        return
    rows = [
        [t["target"], t["state"], ", ".join(t["forms"]), ", ".join(f"{k} {v}" for k, v in t["versions"].items())]
        for t in known
    ]
    show.table(["target", "state", "forms", "versions"], rows)


@app.command()
def doctor(
    names: Annotated[list[str] | None, typer.Argument(metavar="[TARGET]...", help="Default: every target.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Run a tiny float and int8 network on every installed runtime and say what is wrong."""
    from packlight.doctor import diagnose

    with progress.stages(as_json) as stage:
        findings = diagnose(names or (), stage)
    if as_json:
        show.as_json([vars(f) for f in findings])
    else:
        for finding in findings:
            show.line(f"{'ok ' if finding.ok else 'BAD'}  {finding.subject}: {finding.text}")
    return 0 if all(f.ok for f in findings) else 1


@app.command()
def demo(out: OutFolder = Path("demo-out"), as_json: JsonOption = False) -> int:
    """The main job on real data that ships inside packlight: ResNet-20 on Fashion-MNIST to int8."""
    from packlight.demo import run

    with progress.stages(as_json) as stage, outputs.folder(out):
        result = run(stage)
        result.save(out)
    return _found(result, out, as_json, result.met)


def _found(result: Any, out: Path, as_json: bool, good: bool) -> int:
    """Show a search's result; the exit code."""
    if as_json:
        show.as_json(result.as_json())
    else:
        show.result(result.as_json(), out)
    return 0 if good else 1


def _fail(text: str, code: int = 2) -> int:
    print("packlight: " + " ".join(text.split()), file=sys.stderr)
    return code

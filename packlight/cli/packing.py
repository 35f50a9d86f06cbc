"""`packlight pack`, `unpack`, `info` and `verify`: .plt files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from packlight.cli import progress, show, training
from packlight.cli.options import ExcludeOption, JsonOption, ModelArgument, RateOption, TargetOption
from packlight.errors import PacklightError
from packlight.report import format as fmt

PackedArgument = Annotated[Path, typer.Argument(help="A .plt file.")]


def pack(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The .plt file to write.")],
    task: Annotated[str | None, typer.Option(help="As of the other commands; what a budget is measured on.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="drop<=0.1points or drop<=0.5%: round weights. Default: keep every bit.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="That other data keep the budget, too: 0.5 takes drops as measured, up to 0.999.")
    ] = 0.5,
    price: Annotated[
        float | None, typer.Option(help="Instead of a budget: the loss that one bit is worth, e.g. 1e-8.")
    ] = None,
    mode: Annotated[str, typer.Option(help="small, or fast to open.")] = "small",
    exclude: ExcludeOption = None,
    samples: Annotated[int, typer.Option(help="Inputs that tell what each weight matters.")] = 2048,
    judged: Annotated[int, typer.Option(help="Validation samples that each try is scored on.")] = 5000,
    epochs: Annotated[
        float | None, typer.Option(help="Within a budget: also prune, to some six shares, and train so long for each.")
    ] = None,
    learning_rate: RateOption = None,
    teacher: Annotated[
        str | None, typer.Option(help="A better network of the task that training follows instead of the network.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Beginning of file names that killed training resumes from.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a network as a .plt file, the smallest download of it."""
    from packlight.api.delivering import pack as packed
    from packlight.api.opening import load
    from packlight.train import Fit

    if (learning_rate is not None or teacher is not None) and epochs is None:
        raise PacklightError("--lr and --teacher are of training; give --epochs, too")
    finetune = None if epochs is None else Fit(epochs=epochs, learning_rate=learning_rate or Fit.learning_rate)
    with progress.stages_and_steps("packing", as_json, finetune is not None) as (stage, advance):
        made = packed(
            load(model), out, task, budget=budget, confidence=confidence, price=price, mode=mode,
            exclude=exclude or (), samples=samples, judged=judged, finetune=finetune,
            teacher=load(teacher) if teacher else None, checkpoint=checkpoint,
            on_stage=stage, on_step=training.shown(advance),
        )  # fmt: skip
    if as_json:
        show.as_json({
            "wrote": str(out), "download_bytes": made.file_bytes, "memory_bytes": made.memory_bytes,
            "price": made.price, "drop": asdict(made.drop) if made.drop else None,
        })  # fmt: skip
        return
    drop = f", drop {made.drop} on validation data" if made.drop else ""
    show.line(f"wrote {out}: {fmt.size(made.file_bytes)} to download, {made.ratio:.1f} times less than the "
              f"{fmt.size(made.memory_bytes)} that its tensors take in memory{drop}")  # fmt: skip


def unpack(
    packed: PackedArgument,
    out: Annotated[Path, typer.Option("--out", help="A .plm file, or a file or folder for the runtime.")],
    target: TargetOption = "onnxruntime",
    tables: Annotated[
        bool, typer.Option("--tables", help="Weights of few different values as tables, where the runtime has them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a .plt file into a .plm file or a file for a runtime."""
    from packlight.api.delivering import unpack as unpacked
    from packlight.targets import Artifact

    with progress.stages(as_json):
        made = unpacked(packed, out, target=target, tables=tables)
    size = made.bytes if isinstance(made, Artifact) else out.stat().st_size
    if as_json:
        show.as_json({"wrote": str(out), "file_bytes": size})
    else:
        show.line(f"wrote {out}: {fmt.size(size)}, from {fmt.size(packed.stat().st_size)}")


def info(packed: PackedArgument, as_json: JsonOption = False) -> None:
    """Where each byte of a .plt file goes, and what is in it."""
    from packlight.codec import account

    with progress.stages(as_json):
        found = account(packed)
    if as_json:
        show.as_json({
            "model": repr(found.model), "file_bytes": found.file_bytes, "header_bytes": found.header_bytes,
            "frame_bytes": found.frame_bytes, "memory_bytes": found.memory_bytes, "overhead": found.overhead,
            "tensors": [asdict(row) for row in found.rows],
        })  # fmt: skip
        return
    show.line(repr(found.model))
    show.line()
    show.table(
        ["tensor", "type", "elements", "form", "coder", "bytes", "ideal", "bits each", "unpacked"],
        [
            [row.name, row.dtype, f"{(n := _elements(row.shape)):,}", row.form, row.coder, f"{row.bytes:,.0f}",
             f"{row.ideal_bytes:,.0f}", f"{8 * row.bytes / n:.2f}" if n else "", fmt.size(row.memory_bytes)]
            for row in found.rows
        ],
    )  # fmt: skip
    show.line()
    show.line(f"names, shapes and graph {found.header_bytes:,} bytes, lengths and checksums {found.frame_bytes:,}")
    show.line(f"coded tensors take {100 * found.overhead:.2f} % more than their ideal code length")
    show.line(f"download {fmt.size(found.file_bytes)}; tensors in memory {fmt.size(found.memory_bytes)}; files for "
              "runtimes are as large as `packlight unpack` says")  # fmt: skip


def verify(packed: PackedArgument, as_json: JsonOption = False) -> None:
    """Read a .plt file to its last bit: checksums, lengths, graph. Exit code 2 where anything is wrong."""
    from packlight.codec import account

    with progress.stages(as_json):
        found = account(packed)
    if as_json:
        show.as_json({"sound": True, "file_bytes": found.file_bytes, "tensors": len(found.rows)})
    else:
        show.line(f"{packed} is sound: {len(found.rows)} tensors in {fmt.size(found.file_bytes)}")


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count

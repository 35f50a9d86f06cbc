"""`packlight convert`: from one format to another, nothing compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packlight.cli import outputs, progress, show
from packlight.cli.options import (
    InputOption,
    JsonOption,
    ModelArgument,
    TargetOption,
    WeightsOption,
    dimension_and_size,
    example_inputs,
)


def convert(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="The file to write, e.g. model.onnx, or a .plm file.")],
    target: TargetOption = "onnxruntime",
    form: Annotated[str | None, typer.Option(help="How float weights are stored: float32 or float16.")] = None,
    dim: Annotated[
        list[str] | None, typer.Option(help="NAME=SIZE of a dynamic dimension, where the runtime fixes sizes.")
    ] = None,
    weights: WeightsOption = None,
    inputs: InputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a network in another format, not compressed, and make sure that it gives the same outputs there."""
    from packlight.api.delivering import convert as converted
    from packlight.api.opening import load

    if out.suffix == ".plm":
        outputs.check_file(out)
        with progress.stages(as_json):
            made = load(model, example_inputs(inputs), weights=weights)
            made.save(out)
        outputs.wrote(out, made, as_json)
        return
    with progress.stages(as_json):
        network = load(model, example_inputs(inputs), weights=weights) if weights or inputs else model
        sizes = dict(dimension_and_size(d) for d in dim or ())
        artifact = converted(network, out, target=target, form=form, dims=sizes)
    if as_json:
        show.as_json({"wrote": str(artifact.path), **artifact.manifest})
    else:
        show.line(f"wrote {artifact.path} ({artifact.bytes:,} bytes), which gives the same outputs")

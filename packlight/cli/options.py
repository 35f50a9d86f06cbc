"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packlight.errors import PacklightError

ModelArgument = Annotated[
    str, typer.Argument(help="A .plm, .plt, .onnx or .pt2 file, a folder of Hugging Face, or module:factory.")
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="Of module:factory: a .safetensors file, or a state dict in a .pt file.")
]
TaskOption = Annotated[
    str, typer.Option("--task", help="fashion-mnist or another built-in task, or a .py file that defines `task`.")
]
TargetOption = Annotated[str, typer.Option("--target", help="The runtime; `packlight targets` lists them.")]
TargetsOption = Annotated[
    str,
    typer.Option("--target", help="The runtime, or several as a,b,c, for what all of them compute."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
ExcludeOption = Annotated[
    list[str] | None, typer.Option("--exclude", help="Layer-name pattern to leave in float; may be repeated.")
]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="YAML file: fit, distillation, hooks. Options given here overrule it.")
]
EpochsOption = Annotated[float | None, typer.Option("--epochs", help="Passes over the training data; default 1.")]
RateOption = Annotated[float | None, typer.Option("--lr", help="Peak learning rate; default 0.01.")]
BatchOption = Annotated[int | None, typer.Option("--batch", help="Samples a step, over all processes; default 128.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of data order, augmentation, dropout; default 0.")]
OutFile = Annotated[Path, typer.Option("--out", help="The .plm file to write.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder for the artifact, result.json and report.html.")]


def pattern_and_share(given: str) -> tuple[str, float]:
    """PATTERN=SHARE."""
    pattern, found, share = given.rpartition("=")
    try:
        return pattern, float(share if found and pattern else "")
    except ValueError:
        raise PacklightError(f"--layer {given}: give a layer-name pattern and a share, e.g. 'stem*=0.75'") from None


def pattern_and_bits(given: str) -> tuple[str, int]:
    """PATTERN=BITS."""
    pattern, found, bits = given.rpartition("=")
    if not found or not pattern or not bits.isdigit():
        raise PacklightError(f"--layer {given}: give a layer-name pattern and bits, e.g. 'head*=8'")
    return pattern, int(bits)


def dimension_and_size(given: str) -> tuple[str, int]:
    """NAME=SIZE."""
    name, found, size = given.rpartition("=")
    if not found or not name or not size.isdigit():
        raise PacklightError(f"--dim {given}: give a dimension and its size, e.g. batch=8")
    return name, int(size)


def bits_or_format(given: str) -> int | str:
    """A whole number where it is one."""
    try:
        return int(given)
    except ValueError:
        return given


def bits_or_preset(given: str | None) -> float | str | None:
    """A number where it is one."""
    try:
        return None if given is None else float(given)
    except ValueError:
        return given

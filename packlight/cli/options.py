"""Arguments and options that several commands take."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from packlight.errors import PacklightError

_INPUT = re.compile(r"(?:(?P<name>[^=:]+)=)?(?P<shape>\d{1,9}(?:x\d{1,9}){0,7})(?::(?P<dtype>\w+))?\Z")
_DTYPES = "float16 bfloat16 float32 float64 int8 uint8 int16 int32 int64 bool".split()
_MOST_NUMBERS = 1 << 28

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A .plm, .plt, .onnx, .pt2, .keras, .h5, .tflite or TorchScript file, a folder of Hugging Face or a "
        "SavedModel, or module:factory."
    ),
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="Of module:factory: a .safetensors file, or a state dict in a .pt file.")
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="[NAME=]SHAPE[:DTYPE] of an input, e.g. 1x3x224x224 or ids=2x16:int64, where the file leaves sizes open; "
        "may be repeated.",
    ),
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


def example_inputs(given: list[str] | None) -> Any:
    """Tensors of the shapes that were given: by name where all have one, else in their order; None without any."""
    if not given:
        return None
    made = [_example(text) for text in given]
    names = [name for name, _ in made]
    if any(names) and (not all(names) or len(set(names)) < len(names)):
        raise PacklightError("--input: name all inputs or none, and each once")
    return dict(made) if all(names) else tuple(tensor for _, tensor in made)


def _example(given: str) -> tuple[str, Any]:
    import torch

    found = _INPUT.match(given)
    kind = (found["dtype"] or "float32") if found else ""
    if found is None or kind not in _DTYPES:
        raise PacklightError(f"--input {given}: give [NAME=]SHAPE[:DTYPE], e.g. 1x3x224x224 or ids=2x16:int64")
    dtype: torch.dtype = getattr(torch, kind)
    shape = [int(n) for n in found["shape"].split("x")]
    if not 0 < math.prod(shape) <= _MOST_NUMBERS:
        raise PacklightError(f"--input {given}: an input has 1 to {_MOST_NUMBERS:,} numbers")
    if not dtype.is_floating_point:
        return found["name"] or "", torch.zeros(shape, dtype=dtype)
    return found["name"] or "", torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


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

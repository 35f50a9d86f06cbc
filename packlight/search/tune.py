"""The placement tuned by timing: what runs slower in low precision than in float, on this machine, stays in float.

Both files are profiled on their runtime; regions of kernels are chosen with what the conversions at their borders
cost; and a choice counts only when its file is faster than the int8 file, end to end, by a whole 95 % interval.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.latency import compare
from packlight.measure.profile import by_layer, profiles
from packlight.measure.timings import Timings
from packlight.model import Model
from packlight.passes.quantize import Quantization, quantize
from packlight.search.regions import Region, kernels_of, slow_kernels
from packlight.sources import from_module
from packlight.targets import Artifact, Child, Target, export
from packlight.task import Task

_MARGINS = (0.1, 0.5)  # by how much float must be faster; the second leaves out what is near
_LAYOUT = 2.0  # images are also brought from one kernel's memory layout into the other's, about as dear as converting
_SAID = "excluded by name"


@dataclass(frozen=True)
class Tuned:
    """A tuned placement. model: quantized; where nothing was gained, as it was without. excluded: layer → why it
    stays in float. ratio: of the tuned file's latency to the int8 one's, None where nothing was tried. timed: kernels
    and conversions whose times were not known from before."""

    model: Model
    excluded: Mapping[str, str]
    ratio: Measurement | None
    timed: int


@dataclass(frozen=True)
class Plain:
    """What is tuned. model: float, folded. quantized: its int8 form. files: of both, on the target."""

    model: Model
    quantized: Model
    files: tuple[Artifact, Artifact]


def tune(
    plain: Plain, task: Task, target: Target, options: Quantization, inputs: tuple[Any, ...], folder: Path, *,
    exporter: Child | None = None, cache: Path | None = None, on_stage: Callable[[str], None] = lambda text: None,
) -> Tuned:  # fmt: skip
    """Leave in float what is faster so. options: those that `plain.quantized` was made with. inputs: real ones of the
    workload's batch. folder: for files. cache: folder of timings, None for the user's."""
    on_stage("timing layers in int8 and in float")
    threads, dims = task.workload.threads, plain.model.check_inputs([x.shape for x in inputs])
    region = kernels_of(plain.model, target.numerics, options.exclude, len(inputs[0]))
    timings = Timings(plain.files[0].manifest["versions"], cache)
    low, full, timed = kernel_times(region, plain.files, inputs, threads, timings)
    convert, more = conversion_times(region, target, folder, threads, timings, exporter)
    choices = {
        tuple(slow_kernels(region, low, full, convert, margin)): None
        for margin in _MARGINS
    }  # fmt: skip
    made: list[tuple[Model, dict[str, str], Artifact]] = []
    for i, choice in enumerate(c for c in choices if c and len(c) < len(region.names)):
        on_stage(f"leaving {len(choice)} of {len(region.names)} kernels in float")
        why = {region.names[k]: _reason(low[k], full[k]) for k in choice}
        try:
            model = _without(plain.model, task, target, options, why)
        except PacklightError:  # nothing with weights is left
            continue
        file = export(model, folder / f"tuned-{i}{target.suffix}", target, dims=dims, exporter=exporter)
        made.append((model, why, file))
    if not made:
        return Tuned(plain.quantized, {}, None, timed + more)
    on_stage("timing what is left in float against int8")
    taken = compare([plain.files[1], *(file for *_, file in made)], inputs, threads=threads)[1:]
    ratio, best = min(((t.ratio, i) for i, t in enumerate(taken)), key=lambda pair: pair[0].value)
    if ratio.high >= 1:
        return Tuned(plain.quantized, {}, ratio, timed + more)
    return Tuned(made[best][0], made[best][1], ratio, timed + more)


def kernel_times(
    region: Region, files: tuple[Artifact, Artifact], inputs: tuple[Any, ...], threads: int, timings: Timings
) -> tuple[list[float], list[float], int]:
    """Seconds of every kernel in low precision and in float, and how many were timed now. files: float, int8."""
    keys = [["kernel", threads, signature] for signature in region.signatures]
    unknown = [i for i, key in enumerate(keys) if timings.get(key) is None]
    if unknown:
        layers = [layer for parts in region.parts for layer in parts]
        full, low = (by_layer(p, layers) for p in profiles(files, inputs, threads=threads))
        timings.add([
            (keys[i], {"low": sum(low.get(n, 0.0) for n in region.parts[i]),
                       "full": sum(full.get(n, 0.0) for n in region.parts[i])})
            for i in unknown
        ])  # fmt: skip
    found = [timings.get(key) or {} for key in keys]
    return [f.get("low", 0.0) for f in found], [f.get("full", 0.0) for f in found], len(unknown)


class _Conversions(nn.Module):
    """Quantizes and dequantizes each of its inputs."""

    def forward(self, *values: Tensor) -> list[Tensor]:
        ops = torch.ops.quantized_decomposed
        settings = (0.02, 128, 0, 255, torch.uint8)
        return [ops.dequantize_per_tensor(ops.quantize_per_tensor(v, *settings), *settings) for v in values]


def conversion_times(
    region: Region, target: Target, folder: Path, threads: int, timings: Timings, exporter: Child | None = None
) -> tuple[dict[tuple[int, ...], tuple[float, float]], int]:
    """Shape of a value → seconds to quantize and to dequantize it; and how many sizes were timed now."""
    shapes = list(dict.fromkeys(v.shape for v in region.passed))
    sizes = list(dict.fromkeys(math.prod(s) for s in shapes))
    unknown = [n for n in sizes if timings.get(["convert", threads, n]) is None]
    if unknown:
        values = tuple(torch.linspace(-2, 2, n).reshape(1, n) for n in unknown)
        probe = from_module(_Conversions(), values, dynamic={}, name="conversions")
        layers = list(probe.layers())
        file = export(probe, folder / f"conversions{target.suffix}", target, exporter=exporter)
        taken = by_layer(profiles([file], tuple(v.numpy() for v in values), threads=threads)[0], layers)
        pairs = [(taken.get(q, 0.0), taken.get(d, 0.0)) for q, d in zip(layers[::2], layers[1::2], strict=True)]
        timings.add([
            (["convert", threads, n], {"narrow": narrow, "widen": widen})
            for n, (narrow, widen) in zip(unknown, pairs, strict=True)
        ])  # fmt: skip
    found = {}
    for shape in shapes:
        known = timings.get(["convert", threads, math.prod(shape)]) or {}
        factor = _LAYOUT if len(shape) > 2 else 1.0
        found[shape] = factor * known.get("narrow", 0.0), factor * known.get("widen", 0.0)
    return found, len(unknown)


def _reason(low: float, full: float) -> str:
    if low > full > 0:
        return f"ran slower in int8 here: {1e3 * low:.3g} ms against {1e3 * full:.3g} ms"
    if full == 0:
        return f"took {1e3 * low:.3g} ms in int8 here and none in float, which computes it with its neighbour"
    return "lies among layers that ran slower in int8 here"


def _without(model: Model, task: Task, target: Target, options: Quantization, why: Mapping[str, str]) -> Model:
    """The int8 form with these layers in float, its notes saying why."""
    wanted = replace(options, exclude=(*options.exclude, *(escape(name) for name in why)))
    made = quantize(model, task, target.numerics, wanted)
    made.notes = tuple(_said(note, why) for note in made.notes)
    return made


def _said(note: str, why: Mapping[str, str]) -> str:
    layer, _, reason = note.partition(" stays in float: ")
    return f"{layer} stays in float: {why[layer]}" if reason == _SAID and layer in why else note


def tune_placement(
    model: Model, task: Task, target: Target, options: Quantization, inputs: tuple[Any, ...], *,
    cache: Path | None = None, on_stage: Callable[[str], None] = lambda text: None,
) -> Tuned:  # fmt: skip
    """Quantize a folded float Model, and leave in float what is faster so. inputs: of the workload's batch."""
    target.require()
    if options.mode != "static":
        raise PacklightError(f"placement is tuned for ranges from calibration data, got mode {options.mode!r}")
    on_stage("quantizing")
    dims = model.check_inputs([x.shape for x in inputs])
    quantized = quantize(model, task, target.numerics, options)
    with tempfile.TemporaryDirectory(prefix="packlight-") as path, Child(target) as exporter:
        folder = Path(path)
        named: Sequence[tuple[str, Model]] = (("float", model), ("int8", quantized))
        full, low = (export(m, folder / f"{n}{target.suffix}", target, dims=dims, exporter=exporter) for n, m in named)
        plain = Plain(model, quantized, (full, low))
        return tune(
            plain, task, target, options, inputs, folder, exporter=exporter, cache=cache, on_stage=on_stage
        )  # fmt: skip

"""Mend a quantized network: what is wrong with its worst layers is put right, until every layer is sound.

Each round looks at every layer (compare.py), applies the remedy for its cause, and quantizes the float network again
with the options that the quantized one was made with, changed so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from glob import escape
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Numerics
from packlight.passes.fold import fold
from packlight.passes.quantize.bits import Bits
from packlight.passes.quantize.blocks import Batch
from packlight.passes.quantize.compare import CLIPS, SOUND, LayerError, layer_errors, ratio
from packlight.passes.quantize.groups import Scales
from packlight.passes.quantize.placement import place
from packlight.passes.quantize.quantize import Quantization, quantize
from packlight.passes.quantize.rounding import Rounding
from packlight.task import Task


@dataclass(frozen=True)
class Mended:
    """model: the best that was found. changes: what was done, in words and in order. before, after: signal-to-noise
    ratio of the network's outputs against the float network's, dB. sound: whether no layer does harm any more."""

    model: Model
    changes: tuple[str, ...]
    before: float
    after: float
    sound: bool


def mend(
    whole: Model, quantized: Model, task: Task, numerics: Numerics, batches: Sequence[Batch], rounds: int = 5
) -> Mended:
    """Quantize `whole` anew as `quantized` was, its worst layers mended. batches: inputs of one size, to judge by.

    rounds: >= 1, at most. A round that makes the outputs no better is not kept.
    """
    options = recorded(quantized)
    before = best = end_to_end(whole, quantized, batches)
    made, changes = quantized, list[str]()
    found = layer_errors(whole, made, batches)
    for _ in range(rounds):
        changed, done = remedied(whole, made, numerics, options, found)
        if not done:
            break
        try:
            tried = quantize(whole, task, numerics, changed)
            errors = layer_errors(whole, tried, batches)
        except PacklightError as error:
            raise PacklightError(f"mending {quantized.name} ({'; '.join(done)}): {error}") from error
        now = end_to_end(whole, tried, batches)
        if now <= best:
            break
        best, made, options, found = now, tried, changed, errors
        changes += done
    return Mended(made, tuple(changes), before, best, all(e.own >= SOUND for e in found))


def remedied(
    whole: Model, quantized: Model, numerics: Numerics, options: Quantization, errors: Sequence[LayerError]
) -> tuple[Quantization, list[str]]:
    """The options with the remedy for every layer that does harm, and what was changed, in words."""
    done: list[str] = []
    bits, excluded, ranges = dict(options.bits.layers), list(options.exclude), options.ranges
    for error in (e for e in errors if e.own < SOUND):
        if error.inputs is None or (error.weights is not None and error.weights <= error.inputs):
            if _bits_of(quantized, error.layer) < (7 if options.bits.reduced else 8):
                bits[escape(error.layer)] = 8
                done.append(f"{error.layer}: weights of 8 bits")
                continue
            kept = [error.layer]
        elif error.clipped > CLIPS and ranges != "minmax":
            if options.ranges == ranges:
                ranges = "minmax"
                done.append(f"ranges of the extremes seen, since {error.layer} reads {error.clipped:.1%} clipped")
            continue
        else:
            kept = [error.layer, *_writers(whole, numerics, tuple(excluded), error.layer)]
        new = [name for name in kept if escape(name) not in excluded]
        excluded += [escape(name) for name in new]
        done += [f"{name}: left in float" for name in new]
    changed = replace(options, ranges=ranges, exclude=tuple(excluded), bits=replace(options.bits, layers=bits))
    return changed, done


def recorded(quantized: Model) -> Quantization:
    """The options that a Model was quantized with. PacklightError where its lineage does not say, or goes on after."""
    names = [step.name for step in quantized.lineage]
    if "quantize" not in names:
        raise PacklightError(f"{quantized.name} does not record how it was quantized; quantize the float network anew")
    if names[-1] != "quantize":
        raise PacklightError(
            f"{quantized.name} went on after it was quantized ({', '.join(names[names.index('quantize') + 1 :])}), "
            "which mending would undo; mend before that"
        )
    given = dict(quantized.lineage[-1].options)
    bits, rounding, scales = given.pop("bits", {}), given.pop("rounding", "nearest"), given.pop("scales", {})
    try:
        how = Rounding(**rounding) if isinstance(rounding, dict) else rounding
        known = {f.name for f in fields(Quantization)}
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in known}
        return Quantization(**plain, bits=Bits(**bits), rounding=how, scales=Scales(**scales))
    except TypeError as error:
        raise PacklightError(f"{quantized.name} records options of another version of packlight: {error}") from error


@torch.no_grad()
def end_to_end(whole: Model, quantized: Model, batches: Sequence[Batch]) -> float:
    """Signal-to-noise ratio in dB of a quantized network's outputs, over batches."""
    whole, quantized = whole.copy().eval(), quantized.copy().eval()
    signal = noise = 0.0
    for batch in batches:
        for wanted, got in zip(whole.flat(*batch), quantized.flat(*batch), strict=True):
            if wanted.is_floating_point():
                signal += float(wanted.double().square().sum())
                noise += float((got.double() - wanted).square().sum())
    return ratio(signal, noise)


def _bits_of(quantized: Model, layer: str) -> int:
    """The bits that a layer's weights have."""
    dequantize: Any = quantized.layers()[layer].args[1]
    low, high = dequantize.args[-3:-1]
    return int(high - low).bit_length()


def _writers(whole: Model, numerics: Numerics, exclude: tuple[str, ...], layer: str) -> list[str]:
    """Kernels that write what a layer reads and can write nothing but low precision: else it would stay coarse."""
    model = fold(whole)
    placement = place(model, numerics, exclude)
    read = {placement.root(v) for k in placement.kernels if model.layer(k.first) == layer for v in k.inputs}
    return [model.layer(k.first) for k in placement.kernels if k.group.output and k.last in read]

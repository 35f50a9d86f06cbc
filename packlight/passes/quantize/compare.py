"""Where a quantized network departs from the float one, layer by layer, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Format
from packlight.model.operators import load_quantized_operators, packet
from packlight.model.shapes import propagate
from packlight.passes.fold import fold
from packlight.passes.quantize.blocks import Batch, Walker, is_weight
from packlight.passes.quantize.equalize import equalize
from packlight.passes.quantize.ranges import affine, fake_quantize

_PERFECT = 200.0  # dB, where nothing differs
CLIPS = 0.001  # share of values outside a range that is worth naming
SOUND = 30.0  # dB: a layer that adds a thousandth of its output's power does no harm


@dataclass(frozen=True)
class LayerError:
    """Signal-to-noise ratios in dB of what a layer gives: power of the float value over power of the difference; 20 dB
    is a tenth of the size.

    whole: in the quantized network, with all that came before. own: of its own quantizers, reading float values.
    weights, inputs: of the one and of the other alone; None where it has none. clipped: share of the values that it
    reads which lie outside their range. cause, remedy: in words; empty where the layer does no harm.
    file: of the exported file's value on its runtime against the quantized Model's; None where that was not looked at.
    """

    layer: str
    whole: float
    own: float
    weights: float | None
    inputs: float | None
    clipped: float
    cause: str
    remedy: str
    file: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def layer_errors(whole: Model, quantized: Model, batches: Sequence[Batch]) -> list[LayerError]:
    """Every layer with quantized weights, worst first by what it adds itself. whole: the float Model that `quantized`
    was made of. batches: inputs of one size."""
    load_quantized_operators()
    if whole.is_quantized:
        raise PacklightError(f"{whole.name} is quantized; give the float network that the other was made of first")
    whole, quantized = propagate(_as_quantized(whole, quantized)), quantized.copy().eval()
    known = {n.name: n for n in whole.nodes}
    now, then = Walker(quantized, batches), Walker(whole, batches)
    found = []
    for node in quantized.nodes:
        weight: Any = node.args[1] if len(node.args) > 1 else None
        if not isinstance(weight, Node) or not is_weight(weight) or packet(node) == "embedding":
            continue
        twin = known.get(node.name)
        if twin is None or twin.target is not node.target:
            raise PacklightError(f"{quantized.name} was not made of {whole.name}: that has no layer like {node.name}")
        now.advance(node)
        then.advance(twin)
        found.append(_errors(quantized.layer(node), node, twin, now, then))
        now.forget()
        then.forget()
    if not found:
        raise PacklightError(f"{quantized.name} has no layer with quantized weights")
    return sorted(found, key=lambda e: e.own)


def _as_quantized(whole: Model, quantized: Model) -> Model:
    """The float Model, as it was when its values were quantized: folded, and equalized where the other was."""
    done = {step.name for step in whole.lineage}
    for step in quantized.lineage:
        if step.name == "equalize" and "equalize" not in done:
            return equalize(whole, tuple(step.options["exclude"]))
    return fold(whole)


def _errors(layer: str, node: Node, twin: Node, now: Walker, then: Walker) -> LayerError:
    data: Any = node.args[0]
    weight: Any = node.args[1]
    weights = now.values(weight)
    sums = {key: [0.0, 0.0] for key in ("whole", "own", "weights", "inputs")}
    outside = total = 0
    reads = packet(data) == "dequantize_per_tensor"
    for i, run in enumerate(then.runs):
        inputs: Any = map_arg(twin.args, run.env.__getitem__)
        named: Any = map_arg(twin.kwargs, run.env.__getitem__)
        x, w, *rest = inputs
        y: Any = run.env[twin]
        rough, out = _read(data, x) if reads else (x, 0)
        outside, total = outside + out, total + x.numel()

        def give(a: Tensor, b: Tensor, rest: Any = rest, named: Any = named) -> Tensor:
            made: Tensor = twin.target(a, b, *rest, **named)  # type: ignore[operator]
            return made

        given: dict[str, Any] = {
            "whole": now.runs[i].env[node], "own": give(rough, weights[i]), "weights": give(x, weights[i]),
            "inputs": give(rough, w),
        }  # fmt: skip
        for key, value in given.items():
            sums[key][0] += float(y.double().square().sum())
            sums[key][1] += float((value.double() - y).square().sum())
    dB = {key: ratio(*pair) for key, pair in sums.items()}
    clipped = outside / total if total else 0.0
    cause, remedy = _why(dB, clipped)
    return LayerError(
        layer, dB["whole"], dB["own"], dB["weights"], dB["inputs"] if reads else None, clipped, cause, remedy
    )


def _read(dequantize: Node, x: Tensor) -> tuple[Tensor, int]:
    """A float value as the layer reads it, and how many of its elements lie outside the range."""
    settings: Any = dequantize.args[1:5]
    scale, zero, low, high = settings
    if isinstance(scale, Node):  # a range of the value's own
        form = Format(8, signed=low < 0, symmetric=False)
        made = affine(x.min(), x.max(), form)
        return fake_quantize(x, made.scale.to(x.dtype), made.zero_point.to(x.dtype), form), 0
    steps = (x / scale).round() + zero
    inside = steps.clamp(low, high)
    return (inside - zero) * scale, int((steps != inside).sum())


def ratio(signal: float, noise: float) -> float:
    """Powers as a signal-to-noise ratio in dB, within ±200."""
    if not math.isfinite(noise):
        return -_PERFECT
    if noise == 0:
        return _PERFECT
    return max(-_PERFECT, min(_PERFECT, 10 * math.log10(max(signal, 1e-300) / noise)))


def _why(dB: dict[str, float], clipped: float) -> tuple[str, str]:
    """The likely cause of a low ratio, and what to try."""
    if dB["own"] >= SOUND:
        return ("what came before", "mend the layers before it") if dB["whole"] < SOUND else ("", "")
    if dB["weights"] <= dB["inputs"]:
        return "few steps for its weights", "more bits for it (layers={…: 8}), or rounding='block'"
    if clipped > CLIPS:
        return f"{clipped:.1%} of what it reads is clipped", "ranges='minmax', more calibration samples, or exclude it"
    return "few steps for what it reads: single values are far larger than the rest", "exclude it, or mode='dynamic'"

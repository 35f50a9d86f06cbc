"""Bias correction: what quantizing does to the mean of a layer's outputs is taken out of its bias.

Rounding errors of weights do not cancel over inputs whose mean is not 0, as it is after a ReLU: the mean of an output
channel moves, and later layers see all of its values moved. Nagel et al. 2019 (arXiv 1906.04721, section 4.2 and
appendix D, the empirical form): in the order of the graph each layer's bias is shifted by the mean difference from the
float network, the layers before it quantized and corrected.

We deviate in where the means are taken: of what later layers read, after the additions and the ReLU that follow, not of
the layer's own outputs. Few bits make large values smaller. Where most are below 0, as in the last layers of
ResNet-20, a bias that mends the mean before the ReLU lets through what it should stop, and did more harm than good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.integers import bias_unit, settle_biases, settled_bias
from packlight.model.operators import argument, packet
from packlight.model.shapes import shape_of
from packlight.passes.fold import OUTPUT_AXIS, set_constant
from packlight.passes.quantize.blocks import Batch, Walker, is_weight
from packlight.passes.quantize.ranges import LARGEST_BIAS

_CLIPS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0), "hardtanh": None}  # between which a shift is handed on
_LOOKS = 5  # at the means, with a shift corrected after each
_PASSING = 0.01  # share of a channel's values that has to be handed on


def own_biases(model: Model, layers: Sequence[Node]) -> None:
    """Give every layer a bias of its own, in place: zeros where it has none, a copy where it shares one."""
    for layer in layers:
        bias = argument(layer, "bias")
        if bias is None or len(bias.users) > 1:
            weight = model.tensor(argument(layer, "weight"))
            value = torch.zeros(_outputs(layer, weight)) if bias is None else model.tensor(bias).detach().clone()
            set_constant(model, layer, "bias", bias, value)


def _outputs(layer: Node, weight: Tensor) -> int:
    axis = OUTPUT_AXIS[packet(layer)]
    return weight.shape[axis] * (int(argument(layer, "groups")) if axis else 1)


@torch.no_grad()
def correct_biases(
    quantized: Model,
    whole: Model,
    batches: Sequence[Batch],
    *,
    on_layer: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Shift the biases of a quantized Model (in place), so that the mean of each channel that layers hand on over these
    inputs is that in `whole`, the float Model that it was made of. Layers without a bias of their own stay as they are.
    Both propagated, in eval mode."""
    settle_biases(quantized)
    known = {n.name: n for n in whole.nodes}
    layers = [n for n in quantized.nodes if packet(n) in OUTPUT_AXIS and _correctable(n)]
    now, wanted = Walker(quantized, batches), Walker(whole, batches)
    for i, layer in enumerate(layers):
        end = _handed_on(layer)
        now.advance(layer)
        wanted.advance(known[end.name])
        axis = -1 if packet(layer) == "linear" else 1
        means = _mean(wanted.values(known[end.name]), axis)
        shift = _add(quantized, layer, _shift(now, layer, end, axis, means))
        for run in now.runs:  # computed before the bias was known
            run.env[layer] = _moved(run.env[layer], shift, axis)
        now.forget()
        wanted.forget()
        on_layer(i + 1, len(layers))


def _correctable(layer: Node) -> bool:
    weight, bias = argument(layer, "weight"), argument(layer, "bias")
    if not (isinstance(weight, Node) and is_weight(weight)) or len(shape_of(layer)) < 2:
        return False
    return isinstance(bias, Node) and bias.op == "get_attr" and len(bias.users) == 1


def _handed_on(layer: Node) -> Node:
    """What becomes of a layer's outputs, sums and a clip that alone read them, before it is quantized."""
    value = end = layer
    while len(value.users) == 1:
        (user,) = value.users
        if packet(user) in _CLIPS:
            return user
        if packet(user) == "add":
            if len(set(user.args)) < 2 or user.kwargs or shape_of(user) != shape_of(layer):
                break
            end = user
        elif packet(user) not in ("quantize_per_tensor", "dequantize_per_tensor"):
            break
        value = user
    return end


@dataclass(frozen=True)
class _Look:
    """Of each channel, float64 [channels]. mean: of its values. passing: the share that a shift moves."""

    mean: Tensor
    passing: Tensor


def _shift(walker: Walker, layer: Node, end: Node, axis: int, means: Tensor) -> Tensor:
    """What has to be added to a layer's bias for its channels to have these means where they are handed on, float64
    [channels], by Newton's method; of the shifts that were tried, each channel's best."""
    shift, best = torch.zeros_like(means), torch.zeros_like(means)
    least = torch.full_like(means, math.inf)
    for _ in range(_LOOKS):
        found = _look(walker, layer, end, axis, shift)
        error = means - found.mean
        best = torch.where(error.abs() < least, shift, best)
        least = torch.minimum(error.abs(), least)
        step = error / found.passing.clamp(min=_PASSING)
        shift = torch.where(found.passing > _PASSING, shift + step, shift)
    return best


def _look(walker: Walker, layer: Node, end: Node, axis: int, shift: Tensor) -> _Look:
    values = walker.ahead(layer, lambda y: _moved(y, shift, axis), end)
    low, high = _ends(end)
    return _Look(_mean(values, axis), _mean([(v > low) & (v < high) for v in values], axis))


def _ends(node: Node) -> tuple[float, float]:
    if packet(node) not in _CLIPS:
        return -math.inf, math.inf
    return _CLIPS[packet(node)] or (float(argument(node, "min_val")), float(argument(node, "max_val")))


def _moved(x: Tensor, shift: Tensor, axis: int) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    return x + shift.to(x.dtype).reshape(shape)


def _mean(values: Sequence[Tensor], axis: int) -> Tensor:
    """Of each channel over all batches, float64 [channels]."""
    flat = [v.movedim(axis, 0).flatten(1) for v in values]
    sums = torch.stack([v.sum(1, dtype=torch.float64) for v in flat])
    return sums.sum(0) / sum(v.shape[1] for v in flat)


def _add(model: Model, layer: Node, shift: Tensor) -> Tensor:
    """Add to a layer's bias in place, as far as its integers hold it; what was added, [channels]."""
    bias = model.tensor(argument(layer, "bias"))
    before, unit = bias.clone(), bias_unit(model, layer)
    wanted = bias.double() + shift
    if unit is not None:
        wanted = settled_bias(wanted.clamp(-LARGEST_BIAS * unit, LARGEST_BIAS * unit), unit)
    bias.copy_(wanted)
    return bias - before

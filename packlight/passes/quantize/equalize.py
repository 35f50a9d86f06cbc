"""Even weights across layers that follow one another, with nothing between them that a scale of a channel could change.

Cross-layer equalisation (Nagel et al. 2019, arXiv 1906.04721, section 4.1): a ReLU hands a positive factor on, so
channel i of what a layer writes can be divided by

    s_i = sqrt(r1_i · r2_i) / r2_i,    r1_i = max|W1_i|, r2_i = max|W2_i|

and the weights that read it multiplied by it: both layers have the range sqrt(r1_i · r2_i) there. In a chain of more
layers every pair is scaled in turn, until the scales stand still. We deviate in two points: the scales of a pair have
the geometric mean 1, because with scales that fit each weight only their ratios matter; and ReLU6 stays what it is
(the paper makes it a ReLU, which is another network), so that layers before it are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model, Step, matching, patterns_of
from packlight.model.operators import argument, packet
from packlight.model.shapes import propagate, shape_of
from packlight.passes.fold import OUTPUT_AXIS, fold
from packlight.passes.quantize.smooth import smoothing_scales

# f(s · x) = s · f(x) for s > 0, element by element; dropout does nothing in eval mode.
_HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu", "dropout", "feature_dropout", "clone", "contiguous"})
# The same of [n, channels, …], channel by channel.
_POOLS = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
})  # fmt: skip
_CLIPS = frozenset({"relu6", "hardtanh", "clamp", "clip"})
_STILL = 1e-3  # a round that changes no scale by more is the last
_ROUNDS = 100


@dataclass(frozen=True)
class Pair:
    """Two layers of which the second alone reads what the first writes. features: of the second's inputs that one
    channel of the first becomes, more than 1 where it is flattened between. clip: an operator between them that keeps
    channels from being scaled."""

    first: Node
    second: Node
    features: int = 1
    clip: Node | None = None


def equalize(model: Model, exclude: str | Sequence[str] = ()) -> Model:
    """A copy, in eval mode with batch norm folded, that computes the same to rounding, with even weights across layers.

    exclude: layer-name patterns (shell wildcards) that are left as they are. Chains that a clip (ReLU6) keeps from it
    are in the result's `notes`. Raises PacklightError where the Model is quantized already.
    """
    if model.is_quantized:
        raise PacklightError(f"{model.name} is quantized already; equalize its float version")
    model = propagate(fold(model))
    excluded = matching(list(model.layers()), exclude) if exclude else set()
    found = pairs(model, excluded)
    free = [p for p in found if p.clip is None]
    _settle(model, free)
    if not found:
        return model
    if clipped := [model.layer(p.first) for p in found if p.clip is not None]:
        model.notes = (*model.notes, f"not equalized, because a clip follows: {', '.join(clipped)}")
    return model.with_step(Step("equalize", options={"exclude": list(patterns_of(exclude)), "pairs": len(free)}))


def pairs(model: Model, excluded: Container[str] = ()) -> list[Pair]:
    """Those of a propagated Model without batch norm, in graph order. excluded: layer names that are in none."""
    found = []
    for node in model.nodes:
        if _is_layer(model, node) and _bias_is_its_own(node) and model.layer(node) not in excluded:
            pair = _followed(node)
            if pair and _is_layer(model, pair.second) and model.layer(pair.second) not in excluded:
                found.append(pair)
    return found


def _is_layer(model: Model, node: Node) -> bool:
    """A convolution of a batch or a linear layer, with a weight of its own."""
    if packet(node) not in OUTPUT_AXIS or len(shape_of(node)) < 2:
        return False
    weight = argument(node, "weight")
    if not isinstance(weight, Node) or weight.op != "get_attr" or len(weight.users) > 1:
        return False
    tensor = model.tensor(weight)
    return tensor.dtype == torch.float32 and (packet(node) == "linear" or len(shape_of(node)) == tensor.dim())


def _bias_is_its_own(layer: Node) -> bool:
    bias = argument(layer, "bias")
    return bias is None or (bias.op == "get_attr" and len(bias.users) == 1)


def _followed(layer: Node) -> Pair | None:
    """The layer and the one that alone reads what it writes; None where there is none."""
    value, features, clip = layer, 1, None
    spatial = packet(layer) != "linear"  # channels are axis 1, else the last
    while len(value.users) == 1:
        (user,) = value.users
        name = packet(user)
        if not user.args or user.args[0] is not value:
            return None
        if name in OUTPUT_AXIS:
            return Pair(layer, user, features, clip) if spatial == (name != "linear") else None
        if spatial and _flattens(user):
            features, spatial = shape_of(user)[1] // shape_of(value)[1], False
        elif name in _CLIPS:
            clip = user
        elif not (name in _HOMOGENEOUS or (spatial and (name in _POOLS or _is_spatial_mean(user, keeps=True)))):
            return None
        value = user
    return None


def _flattens(node: Node) -> bool:
    """Whether [n, channels, …] becomes [n, features], channel by channel."""
    before, after = shape_of(node.args[0]), shape_of(node)
    if packet(node) == "mean":
        return _is_spatial_mean(node, keeps=False)
    if packet(node) not in ("flatten", "view", "reshape", "squeeze"):
        return False
    return len(before) > 2 and after == (before[0], math.prod(before[1:]))


def _is_spatial_mean(node: Node, *, keeps: bool) -> bool:
    """Whether a node is the mean over all axes but the first two, which stay (keeps) as axes of one or go."""
    axes = argument(node, "dim") if packet(node) == "mean" and len(node.args) > 1 else None
    rank = len(shape_of(node.args[0]))
    if not isinstance(axes, list | tuple) or bool(argument(node, "keepdim")) is not keeps:
        return False
    return rank > 2 and sorted(a % rank for a in axes if isinstance(a, int)) == list(range(2, rank))


def _settle(model: Model, found: Sequence[Pair]) -> None:
    """Scale every pair in turn until nothing moves, in float64; then write the weights and biases back, in place."""
    sides = {n: _Weights(model, n) for p in found for n in (p.first, p.second)}
    for _ in range(_ROUNDS):
        moved = 0.0
        for pair in found:
            first, second = sides[pair.first], sides[pair.second]
            reach = second.largest(outputs=False).reshape(-1, pair.features).amax(1)
            scales = smoothing_scales(first.largest(outputs=True), reach, 0.5).double()
            first.multiply(1 / scales, outputs=True)
            second.multiply(scales.repeat_interleave(pair.features), outputs=False)
            moved = max(moved, float((scales - 1).abs().max()))
        if moved <= _STILL:
            break
    for side in sides.values():
        side.write()


class _Weights:
    """A layer's weight in float64, as [groups, n, m, taps]: output channels are groups · n and inputs groups · m, or
    the other way round in transposed convolutions; and its bias [channels]."""

    def __init__(self, model: Model, layer: Node):
        bias = argument(layer, "bias")
        self.stored = model.tensor(argument(layer, "weight"))
        self.stored_bias = None if bias is None else model.tensor(bias)
        groups = 1 if packet(layer) == "linear" else int(argument(layer, "groups"))
        weight = self.stored.detach().double()
        self.weight = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        self.bias = None if self.stored_bias is None else self.stored_bias.detach().double()
        self.outputs_axis = 1 + OUTPUT_AXIS[packet(layer)]

    def _axis(self, outputs: bool) -> int:
        return self.outputs_axis if outputs else 3 - self.outputs_axis

    def largest(self, *, outputs: bool) -> Tensor:
        """The largest magnitude of each output or input channel [channels]."""
        return self.weight.abs().amax((3 - self._axis(outputs), 3)).flatten()

    def multiply(self, factors: Tensor, *, outputs: bool) -> None:
        """Multiply every output or input channel by its factor [channels]; the bias goes with the outputs."""
        shape = [len(self.weight), 1, 1, 1]
        shape[self._axis(outputs)] = -1
        self.weight = self.weight * factors.reshape(shape)
        if outputs and self.bias is not None:
            self.bias = self.bias * factors

    def write(self) -> None:
        with torch.no_grad():
            self.stored.copy_(self.weight.reshape(self.stored.shape))
            if self.stored_bias is not None and self.bias is not None:
                self.stored_bias.copy_(self.bias)

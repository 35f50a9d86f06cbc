"""Norms, and scales of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from packlight.errors import PacklightError
from packlight.sources.keras import layers
from packlight.sources.keras.rules.common import array, fill, rule
from packlight.sources.keras.translate import Builder, Value


@rule("BatchNormalization")
def _batch_norm(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.spatial(reads[0])
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    if axis not in (-1, value.rank - 1):
        raise PacklightError(f"of axis {axis}; only of the last one")
    made = layers.NORMS[max(1, value.rank - 2)](layer.moving_mean.shape[0], layer.epsilon, 1 - layer.momentum)
    for parameter, variable in ((made.weight, layer.gamma), (made.bias, layer.beta)):
        if variable is not None:
            fill(parameter, variable)
        else:
            parameter.requires_grad_(False)
    with torch.no_grad():
        made.running_mean.copy_(array(layer.moving_mean))
        made.running_var.copy_(array(layer.moving_variance))
    return b.add(layer.name, made, [value], value.rank, value.first)


@rule("LayerNormalization")
def _layer_norm(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.plain(reads[0])
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if [a % value.rank for a in axes] != [value.rank - 1] or getattr(layer, "rms_scaling", False):
        raise PacklightError("only of the last axis, with means")
    size = (layer.gamma if layer.gamma is not None else layer.beta).shape[-1] if layer.scale or layer.center else None
    if size is None:
        return b.add(layer.name, lambda x: F.layer_norm(x, x.shape[-1:], eps=layer.epsilon), [value], value.rank)
    made = nn.LayerNorm(size, layer.epsilon)
    for parameter, variable in ((made.weight, layer.gamma), (made.bias, layer.beta)):
        if variable is not None:
            fill(parameter, variable)
    return b.add(layer.name, made, [value], value.rank)


@rule("GroupNormalization")
def _group_norm(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.spatial(reads[0])
    channels = (layer.gamma if layer.gamma is not None else layer.beta).shape[0]
    made = nn.GroupNorm(channels if layer.groups == -1 else layer.groups, channels, layer.epsilon)
    for parameter, variable in ((made.weight, layer.gamma), (made.bias, layer.beta)):
        if variable is not None:
            fill(parameter, variable)
    return b.add(layer.name, made, [value], value.rank, value.first)


@rule("Rescaling", "Normalization")
def _scaling(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = reads[0]
    if type(layer).__name__ == "Rescaling":
        scale, shift = (torch.as_tensor(np.asarray(v, np.float32)) for v in (layer.scale, layer.offset))
    else:
        pair = layer.mean, layer.variance
        mean, spread = (torch.as_tensor(np.asarray(_plain(v), np.float32)).flatten() for v in pair)
        scale = 1 / spread.sqrt().clamp_min(1e-7)
        scale, shift = (spread.sqrt(), mean) if layer.invert else (scale, -mean * scale)
        if value.rank - 1 not in {a % value.rank for a in layer.axis} and scale.numel() > 1:
            raise PacklightError("only of the last axis")
    if scale.numel() > 1 or shift.numel() > 1:
        value = b.spatial(value)
        sizes = (-1, *[1] * (value.rank - 2)) if value.first else (-1,)
        scale, shift = scale.reshape(sizes), shift.reshape(sizes)
    return b.add(layer.name, layers.Scaled(scale, shift), [value], value.rank, value.first)


def _plain(value: Any) -> Any:
    return value.detach().cpu() if hasattr(value, "detach") else value


@rule("LayerScale")
def _layer_scale(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.plain(reads[0])

    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(layer.gamma.shape[-1]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma

    made = Gain()
    fill(made.gamma, layer.gamma)
    return b.add(layer.name, made, [value], value.rank)


@rule("CustomScaleLayer")
def _residual_scale(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    one, other = (b.spatial(v) for v in reads)
    return b.add(layer.name, lambda x, y: x + y * layer.scale, [one, other], one.rank, one.first)

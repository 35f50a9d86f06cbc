"""Activations as layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from packlight.errors import PacklightError
from packlight.sources.keras.rules.common import activation, fill, rule
from packlight.sources.keras.translate import Builder, Value


@rule("Activation")
def _activation_layer(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return activation(b, layer.activation, layer.name, reads[0])


@rule("ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax")
def _activation_class(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value, kind = reads[0], type(layer).__name__
    if kind == "PReLU":
        value = b.spatial(value)
        if layer.alpha.shape[:-1].count(1) != len(layer.alpha.shape) - 1:
            raise PacklightError("one slope a channel, please: shared_axes over all others")
        made: nn.Module = nn.PReLU(layer.alpha.shape[-1])
        fill(made.weight, layer.alpha)
    elif kind == "Softmax":
        value, made = b.plain(value), nn.Softmax(layer.axis)
    elif kind == "ELU":
        made = nn.ELU(layer.alpha)
    elif kind == "LeakyReLU":
        made = nn.LeakyReLU(float(layer.negative_slope))
    else:
        slope, most, least = float(layer.negative_slope or 0), layer.max_value, float(layer.threshold or 0)
        if least or (slope and most is not None):
            raise PacklightError("a threshold, or a slope and a largest value together, are not translated")
        made = nn.LeakyReLU(slope) if slope else nn.ReLU()
        if most is not None:
            made = nn.ReLU6() if float(most) == 6 else nn.Hardtanh(0.0, float(most))
    return b.add(layer.name, made, [value], value.rank, value.first)

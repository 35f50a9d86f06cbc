"""What picks, moves and joins elements: pooling, padding, shapes, sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from packlight.errors import PacklightError
from packlight.sources.keras import layers
from packlight.sources.keras.rules.common import check_last, rule
from packlight.sources.keras.translate import Builder, Value


@rule("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def _pool(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    check_last(layer)
    value, name = b.spatial(reads[0]), type(layer).__name__
    made = layers.Pool(name.startswith("Max"), layer.pool_size, layer.strides, layer.padding == "same")
    return b.add(layer.name, made, [value], value.rank, True)


@rule("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D", "GlobalMaxPooling1D",
       "GlobalMaxPooling2D", "GlobalMaxPooling3D")  # fmt: skip
def _global_pool(b: Builder, layer: Any, reads: list[Value], given: dict[str, Any]) -> Value:
    check_last(layer)
    value, keep = b.spatial(reads[0]), bool(layer.keepdims)
    axes = tuple(range(2, value.rank))
    largest = "Max" in type(layer).__name__
    return b.add(
        layer.name, lambda x: x.amax(axes, keepdim=keep) if largest else x.mean(axes, keepdim=keep), [value],
        value.rank if keep else 2, keep,
    )  # fmt: skip


@rule("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D")
def _pad(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    check_last(layer)
    value, name = b.spatial(reads[0]), type(layer).__name__
    given = layer.padding if name.startswith("Zero") else layer.cropping
    pairs = [given] if name.endswith("1D") else list(given)
    sign = 1 if name.startswith("Zero") else -1
    pads = [sign * int(p) for pair in reversed(pairs) for p in pair]
    return b.add(layer.name, lambda x: F.pad(x, pads), [value], value.rank, True)


@rule("UpSampling1D", "UpSampling2D")
def _upsample(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    check_last(layer)
    value = b.spatial(reads[0])
    how = getattr(layer, "interpolation", "nearest")
    if how not in ("nearest", "bilinear"):
        raise PacklightError(f"no interpolation {how!r}")
    times = [float(s) for s in (layer.size if isinstance(layer.size, tuple | list) else [layer.size])]
    smooth = {} if how == "nearest" else {"align_corners": False}
    return b.add(
        layer.name, lambda x: F.interpolate(x, scale_factor=times, mode=how, **smooth), [value], value.rank, True
    )


@rule("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide")
def _merge(b: Builder, layer: Any, reads: list[Value], given: dict[str, Any]) -> Value:
    """Layers that merge a list, and operations of two tensors or of one and a number."""
    kind = type(layer).__name__
    operands: list[Any] = list(reads)
    if "x1" in given or "1" in given:
        operands = [given.get("0", given.get("x1")), given.get("1", given.get("x2"))]
    values = [v for v in operands if isinstance(v, Value)]
    rank = max(v.rank for v in values)
    first = any(v.first for v in values)
    if first and any(v.rank not in (rank, 0) for v in values):
        values, first = [b.plain(v) for v in values], False
    ready = iter([b.spatial(v) if first else v for v in values])
    operands = [next(ready) if isinstance(v, Value) else _number(v) for v in operands]
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "Add": lambda x, y: x + y, "Average": lambda x, y: x + y, "Subtract": lambda x, y: x - y,
        "Multiply": lambda x, y: x * y, "Divide": lambda x, y: x / y, "TrueDivide": lambda x, y: x / y,
        "Maximum": torch.maximum, "Minimum": torch.minimum,
    }  # fmt: skip
    found = operands[0]
    for i, other in enumerate(operands[1:]):
        last = i == len(operands) - 2 and kind != "Average"
        found = b.add(layer.name if last else f"{layer.name}_part", functions[kind], [found, other], rank, first)
    if kind == "Average":
        count = len(operands)
        found = b.add(layer.name, lambda x: x / count, [found], rank, first)
    return found


def _number(given: Any) -> float:
    if isinstance(given, bool | int | float):
        return given
    value = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    if value.size != 1:
        raise PacklightError("a constant tensor of several elements is not translated")
    return float(value.reshape(()))


@rule("Concatenate")
def _concatenate(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    rank, first = reads[0].rank, any(v.first for v in reads)
    axis = int(layer.axis) % rank
    if first and axis:
        axis = 1 if axis == rank - 1 else axis + 1
    values = [b.spatial(v) if first else v for v in reads]
    return b.add(layer.name, lambda *x: torch.cat(x, axis), values, rank, first)


@rule("Flatten")
def _flatten(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return b.add(layer.name, nn.Flatten(), [b.plain(reads[0])], 2)


@rule("Reshape")
def _reshape(b: Builder, layer: Any, reads: list[Value], given: dict[str, Any]) -> Value:
    target = tuple(getattr(layer, "target_shape", None) or getattr(layer, "newshape", ())[1:])
    return b.add(layer.name, lambda x: x.reshape(-1, *target) if -1 not in target else x.reshape(x.shape[0], *target),
                 [b.plain(reads[0])], 1 + len(target))  # fmt: skip


@rule("Permute")
def _permute(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    order = (0, *layer.dims)
    return b.add(layer.name, lambda x: x.permute(order), [b.plain(reads[0])], reads[0].rank)


@rule("RepeatVector")
def _repeat(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return b.add(layer.name, lambda x: x.unsqueeze(1).expand(-1, layer.n, -1), [reads[0]], 3)


@rule("Dropout")
def _dropout(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return b.add(layer.name, nn.Dropout(layer.rate), [reads[0]], reads[0].rank, reads[0].first)


@rule("SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization", "Identity",
       "StochasticDepth")  # fmt: skip
def _nothing(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return b.add(layer.name, nn.Identity(), [reads[0]], reads[0].rank, reads[0].first)

"""Layers with weights: convolutions, dense layers, embeddings."""

from __future__ import annotations

from typing import Any

from torch import nn

from packlight.errors import PacklightError
from packlight.sources.keras import layers
from packlight.sources.keras.rules.common import activated, check_last, fill, rule
from packlight.sources.keras.translate import Builder, Value


@rule("Conv1D", "Conv2D", "Conv3D")
def _convolution(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    check_last(layer)
    if layer.padding not in ("valid", "same"):
        raise PacklightError(f"no padding {layer.padding!r}")
    kernel = layer.kernel
    axes = len(kernel.shape) - 2
    made = layers.CONVOLUTIONS[axes](
        kernel.shape[-2] * layer.groups, kernel.shape[-1], tuple(layer.kernel_size), tuple(layer.strides),
        dilation=tuple(layer.dilation_rate), groups=layer.groups, bias=layer.use_bias,
    )  # fmt: skip
    fill(made.weight, kernel, (axes + 1, axes, *range(axes)))
    if layer.use_bias:
        fill(made.bias, layer.bias)
    found = _convolved(b, layer.name, made, layer, reads[0])
    return activated(b, layer, found)


def _convolved(b: Builder, name: str, made: Any, layer: Any, value: Value) -> Value:
    """The convolution and its zeros: its own padding, where there are as many on both sides whatever the size."""
    value = b.spatial(value)
    reach = [(k - 1) * d for k, d in zip(made.kernel_size, made.dilation, strict=True)]
    if layer.padding == "same" and all(s == 1 for s in made.stride) and all(r % 2 == 0 for r in reach):
        made.padding = tuple(r // 2 for r in reach)
        made._reversed_padding_repeated_twice = [r // 2 for r in reversed(reach) for _ in range(2)]
    elif layer.padding == "same":
        zeros = layers.Zeros(made.kernel_size, made.stride, made.dilation)
        value = b.add(f"{name}_zeros", zeros, [value], value.rank, True)
    return b.add(name, made, [value], value.rank, True)


@rule("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    check_last(layer)
    kernel = layer.kernel if hasattr(layer, "kernel") else layer.depthwise_kernel
    axes, channels, times = len(kernel.shape) - 2, kernel.shape[-2], kernel.shape[-1]
    made = layers.CONVOLUTIONS[axes](
        channels, channels * times, tuple(layer.kernel_size), tuple(layer.strides), dilation=tuple(layer.dilation_rate),
        groups=channels, bias=layer.use_bias,
    )  # fmt: skip
    fill(made.weight, kernel, (axes, axes + 1, *range(axes)))
    if layer.use_bias:
        fill(made.bias, layer.bias)
    found = _convolved(b, layer.name, made, layer, reads[0])
    return activated(b, layer, found)


@rule("SeparableConv1D", "SeparableConv2D")
def _separable(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    check_last(layer)
    deep, point = layer.depthwise_kernel, layer.pointwise_kernel
    axes, channels, times = len(deep.shape) - 2, deep.shape[-2], deep.shape[-1]
    first = layers.CONVOLUTIONS[axes](
        channels, channels * times, tuple(layer.kernel_size), tuple(layer.strides), dilation=tuple(layer.dilation_rate),
        groups=channels, bias=False,
    )  # fmt: skip
    second = layers.CONVOLUTIONS[axes](channels * times, point.shape[-1], 1, bias=layer.use_bias)
    fill(first.weight, deep, (axes, axes + 1, *range(axes)))
    fill(second.weight, point, (axes + 1, axes, *range(axes)))
    if layer.use_bias:
        fill(second.bias, layer.bias)
    found = _convolved(b, f"{layer.name}_depthwise", first, layer, reads[0])
    return activated(b, layer, b.add(layer.name, second, [found], axes + 2, True))


@rule("Conv1DTranspose", "Conv2DTranspose")
def _transposed(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    check_last(layer)
    kernel = layer.kernel
    axes = len(kernel.shape) - 2
    short = layer.padding == "same" and any(k < s for k, s in zip(layer.kernel_size, layer.strides, strict=True))
    if layer.output_padding is not None or any(d != 1 for d in layer.dilation_rate) or short:
        raise PacklightError("output_padding, dilation, and kernels shorter than the stride are not translated")
    made = layers.TRANSPOSED[axes](
        kernel.shape[-1], kernel.shape[-2], tuple(layer.kernel_size), tuple(layer.strides), bias=layer.use_bias
    )
    fill(made.weight, kernel, (axes + 1, axes, *range(axes)))
    if layer.use_bias:
        fill(made.bias, layer.bias)
    found = b.add(layer.name, made, [b.spatial(reads[0])], axes + 2, True)
    if layer.padding == "same":
        found = b.add(f"{layer.name}_crop", layers.Crop(layer.kernel_size, layer.strides), [found], axes + 2, True)
    return activated(b, layer, found)


@rule("Dense")
def _dense(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.plain(reads[0])
    inputs, outputs = layer.kernel.shape
    made = nn.Linear(inputs, outputs, bias=layer.use_bias)
    fill(made.weight, layer.kernel, (1, 0))
    if layer.use_bias:
        fill(made.bias, layer.bias)
    return activated(b, layer, b.add(layer.name, made, [value], value.rank))


@rule("TimeDistributed")
def _distributed(b: Builder, layer: Any, reads: list[Value], given: Any) -> Value:
    if type(layer.layer).__name__ != "Dense":
        raise PacklightError(f"of {type(layer.layer).__name__}; only Dense")
    return _dense(b, layer.layer, reads, given)


@rule("Embedding")
def _embedding(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    if layer.mask_zero:
        raise PacklightError("its mask is not translated; make it with mask_zero=False where padding may count")
    made = nn.Embedding(*layer.embeddings.shape)
    fill(made.weight, layer.embeddings)
    return b.add(layer.name, made, [reads[0]], reads[0].rank + 1)

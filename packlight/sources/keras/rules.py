"""Rules: a Keras layer's class → steps of a torch module, weights carried over."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from packlight.errors import PacklightError
from packlight.sources.keras import layers
from packlight.sources.keras.translate import Builder, Rule, Value, translate

_RULES: dict[str, Rule] = {}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU, "selu": nn.SELU,
    "softplus": nn.Softplus, "softsign": nn.Softsign, "silu": nn.SiLU, "swish": nn.SiLU, "gelu": nn.GELU,
    "mish": nn.Mish, "hard_sigmoid": nn.Hardsigmoid, "hard_silu": nn.Hardswish, "hard_swish": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.2), "exponential": lambda: layers.Do(torch.exp),
    "softmax": lambda: nn.Softmax(-1), "log_softmax": lambda: nn.LogSoftmax(-1),
}  # fmt: skip
_ALONG = ("softmax", "log_softmax")  # of the last axis; all others are of every element


def rule_of(operation: Any) -> Rule | None:
    """By class name, of Keras' own classes alone; a network inside another is one, too."""
    if hasattr(operation, "_nodes_by_depth") or getattr(operation, "_functional", None) is not None:
        return _network
    own = type(operation).__module__.split(".")[0] == "keras"
    return _RULES.get(type(operation).__name__) if own else None


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def put(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return put


def _network(b: Builder, network: Any, reads: list[Value], _: Any) -> Any:
    return translate(b, network, [b.plain(v) for v in reads])


def _array(variable: Any) -> Tensor:
    """A copy of a Keras variable's value."""
    value = variable.value
    return torch.from_numpy(np.array((value() if callable(value) else value).detach().cpu()))


def _fill(parameter: Any, variable: Any, order: Sequence[int] | None = None) -> None:
    value = _array(variable)
    with torch.no_grad():
        parameter.copy_((value if order is None else value.permute(*order)).reshape(parameter.shape))
    parameter.requires_grad_(bool(variable.trainable))


def _activated(b: Builder, layer: Any, made: Value) -> Value:
    return _activation(b, layer.activation, f"{layer.name}_activation", made)


def _activation(b: Builder, function: Any, name: str, value: Value) -> Value:
    kind = getattr(function, "__name__", str(function))
    if kind == "linear":
        return value
    if kind not in ACTIVATIONS:
        raise PacklightError(f"no activation {kind!r}; there are linear, {', '.join(ACTIVATIONS)}")
    value = b.plain(value) if kind in _ALONG else value
    return b.add(name, ACTIVATIONS[kind](), [value], value.rank, value.first)


def _check_last(layer: Any) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise PacklightError("only channels_last")


@_rule("Conv1D", "Conv2D", "Conv3D")
def _convolution(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    _check_last(layer)
    if layer.padding not in ("valid", "same"):
        raise PacklightError(f"no padding {layer.padding!r}")
    kernel = layer.kernel
    axes = len(kernel.shape) - 2
    made = layers.CONVOLUTIONS[axes](
        kernel.shape[-2] * layer.groups, kernel.shape[-1], tuple(layer.kernel_size), tuple(layer.strides),
        dilation=tuple(layer.dilation_rate), groups=layer.groups, bias=layer.use_bias,
    )  # fmt: skip
    _fill(made.weight, kernel, (axes + 1, axes, *range(axes)))
    if layer.use_bias:
        _fill(made.bias, layer.bias)
    found = _convolved(b, layer.name, made, layer, reads[0])
    return _activated(b, layer, found)


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


@_rule("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    _check_last(layer)
    kernel = layer.kernel if hasattr(layer, "kernel") else layer.depthwise_kernel
    axes, channels, times = len(kernel.shape) - 2, kernel.shape[-2], kernel.shape[-1]
    made = layers.CONVOLUTIONS[axes](
        channels, channels * times, tuple(layer.kernel_size), tuple(layer.strides), dilation=tuple(layer.dilation_rate),
        groups=channels, bias=layer.use_bias,
    )  # fmt: skip
    _fill(made.weight, kernel, (axes, axes + 1, *range(axes)))
    if layer.use_bias:
        _fill(made.bias, layer.bias)
    found = _convolved(b, layer.name, made, layer, reads[0])
    return _activated(b, layer, found)


@_rule("SeparableConv1D", "SeparableConv2D")
def _separable(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    _check_last(layer)
    deep, point = layer.depthwise_kernel, layer.pointwise_kernel
    axes, channels, times = len(deep.shape) - 2, deep.shape[-2], deep.shape[-1]
    first = layers.CONVOLUTIONS[axes](
        channels, channels * times, tuple(layer.kernel_size), tuple(layer.strides), dilation=tuple(layer.dilation_rate),
        groups=channels, bias=False,
    )  # fmt: skip
    second = layers.CONVOLUTIONS[axes](channels * times, point.shape[-1], 1, bias=layer.use_bias)
    _fill(first.weight, deep, (axes, axes + 1, *range(axes)))
    _fill(second.weight, point, (axes + 1, axes, *range(axes)))
    if layer.use_bias:
        _fill(second.bias, layer.bias)
    found = _convolved(b, f"{layer.name}_depthwise", first, layer, reads[0])
    return _activated(b, layer, b.add(layer.name, second, [found], axes + 2, True))


@_rule("Conv1DTranspose", "Conv2DTranspose")
def _transposed(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    _check_last(layer)
    kernel = layer.kernel
    axes = len(kernel.shape) - 2
    short = layer.padding == "same" and any(k < s for k, s in zip(layer.kernel_size, layer.strides, strict=True))
    if layer.output_padding is not None or any(d != 1 for d in layer.dilation_rate) or short:
        raise PacklightError("output_padding, dilation, and kernels shorter than the stride are not translated")
    made = layers.TRANSPOSED[axes](
        kernel.shape[-1], kernel.shape[-2], tuple(layer.kernel_size), tuple(layer.strides), bias=layer.use_bias
    )
    _fill(made.weight, kernel, (axes + 1, axes, *range(axes)))
    if layer.use_bias:
        _fill(made.bias, layer.bias)
    found = b.add(layer.name, made, [b.spatial(reads[0])], axes + 2, True)
    if layer.padding == "same":
        found = b.add(f"{layer.name}_crop", layers.Crop(layer.kernel_size, layer.strides), [found], axes + 2, True)
    return _activated(b, layer, found)


@_rule("Dense")
def _dense(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.plain(reads[0])
    inputs, outputs = layer.kernel.shape
    made = nn.Linear(inputs, outputs, bias=layer.use_bias)
    _fill(made.weight, layer.kernel, (1, 0))
    if layer.use_bias:
        _fill(made.bias, layer.bias)
    return _activated(b, layer, b.add(layer.name, made, [value], value.rank))


@_rule("TimeDistributed")
def _distributed(b: Builder, layer: Any, reads: list[Value], given: Any) -> Value:
    if type(layer.layer).__name__ != "Dense":
        raise PacklightError(f"of {type(layer.layer).__name__}; only Dense")
    return _dense(b, layer.layer, reads, given)


@_rule("BatchNormalization")
def _batch_norm(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.spatial(reads[0])
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    if axis not in (-1, value.rank - 1):
        raise PacklightError(f"of axis {axis}; only of the last one")
    made = layers.NORMS[max(1, value.rank - 2)](layer.moving_mean.shape[0], layer.epsilon, 1 - layer.momentum)
    for parameter, variable in ((made.weight, layer.gamma), (made.bias, layer.beta)):
        if variable is not None:
            _fill(parameter, variable)
        else:
            parameter.requires_grad_(False)
    with torch.no_grad():
        made.running_mean.copy_(_array(layer.moving_mean))
        made.running_var.copy_(_array(layer.moving_variance))
    return b.add(layer.name, made, [value], value.rank, value.first)


@_rule("LayerNormalization")
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
            _fill(parameter, variable)
    return b.add(layer.name, made, [value], value.rank)


@_rule("GroupNormalization")
def _group_norm(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.spatial(reads[0])
    channels = (layer.gamma if layer.gamma is not None else layer.beta).shape[0]
    made = nn.GroupNorm(channels if layer.groups == -1 else layer.groups, channels, layer.epsilon)
    for parameter, variable in ((made.weight, layer.gamma), (made.bias, layer.beta)):
        if variable is not None:
            _fill(parameter, variable)
    return b.add(layer.name, made, [value], value.rank, value.first)


@_rule("Activation")
def _activation_layer(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return _activation(b, layer.activation, layer.name, reads[0])


@_rule("ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax")
def _activation_class(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value, kind = reads[0], type(layer).__name__
    if kind == "PReLU":
        value = b.spatial(value)
        if layer.alpha.shape[:-1].count(1) != len(layer.alpha.shape) - 1:
            raise PacklightError("one slope a channel, please: shared_axes over all others")
        made: nn.Module = nn.PReLU(layer.alpha.shape[-1])
        _fill(made.weight, layer.alpha)
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


@_rule("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def _pool(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    _check_last(layer)
    value, name = b.spatial(reads[0]), type(layer).__name__
    made = layers.Pool(name.startswith("Max"), layer.pool_size, layer.strides, layer.padding == "same")
    return b.add(layer.name, made, [value], value.rank, True)


@_rule("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D", "GlobalMaxPooling1D",
       "GlobalMaxPooling2D", "GlobalMaxPooling3D")  # fmt: skip
def _global_pool(b: Builder, layer: Any, reads: list[Value], given: dict[str, Any]) -> Value:
    _check_last(layer)
    value, keep = b.spatial(reads[0]), bool(layer.keepdims)
    axes = tuple(range(2, value.rank))
    largest = "Max" in type(layer).__name__
    return b.add(
        layer.name, lambda x: x.amax(axes, keepdim=keep) if largest else x.mean(axes, keepdim=keep), [value],
        value.rank if keep else 2, keep,
    )  # fmt: skip


@_rule("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D")
def _pad(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    _check_last(layer)
    value, name = b.spatial(reads[0]), type(layer).__name__
    given = layer.padding if name.startswith("Zero") else layer.cropping
    pairs = [given] if name.endswith("1D") else list(given)
    sign = 1 if name.startswith("Zero") else -1
    pads = [sign * int(p) for pair in reversed(pairs) for p in pair]
    return b.add(layer.name, lambda x: F.pad(x, pads), [value], value.rank, True)


@_rule("UpSampling1D", "UpSampling2D")
def _upsample(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    _check_last(layer)
    value = b.spatial(reads[0])
    how = getattr(layer, "interpolation", "nearest")
    if how not in ("nearest", "bilinear"):
        raise PacklightError(f"no interpolation {how!r}")
    times = [float(s) for s in (layer.size if isinstance(layer.size, tuple | list) else [layer.size])]
    smooth = {} if how == "nearest" else {"align_corners": False}
    return b.add(
        layer.name, lambda x: F.interpolate(x, scale_factor=times, mode=how, **smooth), [value], value.rank, True
    )


@_rule("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide")
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


@_rule("Concatenate")
def _concatenate(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    rank, first = reads[0].rank, any(v.first for v in reads)
    axis = int(layer.axis) % rank
    if first and axis:
        axis = 1 if axis == rank - 1 else axis + 1
    values = [b.spatial(v) if first else v for v in reads]
    return b.add(layer.name, lambda *x: torch.cat(x, axis), values, rank, first)


@_rule("Flatten")
def _flatten(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return b.add(layer.name, nn.Flatten(), [b.plain(reads[0])], 2)


@_rule("Reshape")
def _reshape(b: Builder, layer: Any, reads: list[Value], given: dict[str, Any]) -> Value:
    target = tuple(getattr(layer, "target_shape", None) or getattr(layer, "newshape", ())[1:])
    return b.add(layer.name, lambda x: x.reshape(-1, *target) if -1 not in target else x.reshape(x.shape[0], *target),
                 [b.plain(reads[0])], 1 + len(target))  # fmt: skip


@_rule("Permute")
def _permute(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    order = (0, *layer.dims)
    return b.add(layer.name, lambda x: x.permute(order), [b.plain(reads[0])], reads[0].rank)


@_rule("RepeatVector")
def _repeat(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return b.add(layer.name, lambda x: x.unsqueeze(1).expand(-1, layer.n, -1), [reads[0]], 3)


@_rule("Dropout")
def _dropout(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return b.add(layer.name, nn.Dropout(layer.rate), [reads[0]], reads[0].rank, reads[0].first)


@_rule("SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization", "Identity",
       "StochasticDepth")  # fmt: skip
def _nothing(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    return b.add(layer.name, nn.Identity(), [reads[0]], reads[0].rank, reads[0].first)


@_rule("Rescaling", "Normalization")
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


@_rule("LayerScale")
def _layer_scale(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    value = b.plain(reads[0])

    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(layer.gamma.shape[-1]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma

    made = Gain()
    _fill(made.gamma, layer.gamma)
    return b.add(layer.name, made, [value], value.rank)


@_rule("CustomScaleLayer")
def _residual_scale(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    one, other = (b.spatial(v) for v in reads)
    return b.add(layer.name, lambda x, y: x + y * layer.scale, [one, other], one.rank, one.first)


@_rule("Embedding")
def _embedding(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    if layer.mask_zero:
        raise PacklightError("mask_zero is not translated")
    made = nn.Embedding(*layer.embeddings.shape)
    _fill(made.weight, layer.embeddings)
    return b.add(layer.name, made, [reads[0]], reads[0].rank + 1)


@_rule("LSTM", "GRU", "SimpleRNN")
def _recurrent(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    made = _cell(layer, False)
    _carry(made, layer, "")
    value = b.plain(reads[0])
    if layer.go_backwards:
        value = b.add(f"{layer.name}_backwards", lambda x: x.flip(1), [value], 3)
    return _returned(b, layer.name, made, value, layer.return_sequences)


def _returned(b: Builder, name: str, made: Any, value: Value, sequences: bool) -> Value:
    """All steps, or the last of each direction."""
    found = b.add(name, made, [value], 3)
    if sequences:
        return b.add(f"{name}_steps", lambda given: given[0], [found], 3)
    half = made.hidden_size
    if made.bidirectional:
        ends = layers.Do(lambda given: torch.cat([given[0][:, -1, :half], given[0][:, 0, half:]], 1))
        return b.add(f"{name}_last", ends, [found], 2)
    return b.add(f"{name}_last", lambda given: given[0][:, -1], [found], 2)


@_rule("Bidirectional")
def _bidirectional(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    if layer.merge_mode != "concat" or type(layer.forward_layer).__name__ not in _GATES:
        raise PacklightError("only LSTM, GRU and SimpleRNN, joined by concat")
    made = _cell(layer.forward_layer, True)
    _carry(made, layer.forward_layer, "")
    _carry(made, layer.backward_layer, "_reverse")
    return _returned(b, layer.name, made, b.plain(reads[0]), layer.forward_layer.return_sequences)


_GATES = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}  # of Keras, in torch's order


def _cell(layer: Any, both: bool) -> Any:
    kind = type(layer).__name__
    activation = layer.activation.__name__
    usual = {"LSTM": ("tanh",), "GRU": ("tanh",), "SimpleRNN": ("tanh", "relu")}[kind]
    gates = "sigmoid" if kind == "SimpleRNN" else layer.recurrent_activation.__name__
    if activation not in usual or gates != "sigmoid" or layer.return_state or layer.stateful:
        raise PacklightError("other activations than tanh and sigmoid, and states passed on, are not translated")
    if kind == "GRU" and not layer.reset_after:
        raise PacklightError("reset_after=False is not translated")
    inputs = layer.cell.kernel.shape[0]
    if kind == "SimpleRNN":
        return nn.RNN(inputs, layer.units, nonlinearity=activation, batch_first=True, bidirectional=both)
    make = nn.LSTM if kind == "LSTM" else nn.GRU
    return make(inputs, layer.units, batch_first=True, bidirectional=both)


def _carry(made: Any, layer: Any, suffix: str) -> None:
    order, cell, units = _GATES[type(layer).__name__], layer.cell, layer.units

    def gates(value: Tensor) -> Tensor:
        parts = torch.split(value, units)
        return torch.cat([parts[i] for i in order])

    with torch.no_grad():
        getattr(made, f"weight_ih_l0{suffix}").copy_(gates(_array(cell.kernel).T.contiguous()))
        getattr(made, f"weight_hh_l0{suffix}").copy_(gates(_array(cell.recurrent_kernel).T.contiguous()))
        biases = [torch.zeros(len(order) * units)] * 2
        if cell.bias is not None:
            given = _array(cell.bias)
            biases = [given[0], given[1]] if given.dim() > 1 else [given, biases[1]]
        for name, bias in zip(("bias_ih_l0", "bias_hh_l0"), biases, strict=True):
            getattr(made, f"{name}{suffix}").copy_(gates(bias))


@_rule("MultiHeadAttention")
def _attention(b: Builder, layer: Any, reads: list[Value], given: dict[str, Any]) -> Value:
    masked = any(v is not None and k.endswith("_mask") and k != "use_causal_mask" for k, v in given.items())
    if masked or given.get("use_causal_mask") or given.get("return_attention_scores") or reads[0].rank != 3:
        raise PacklightError("masks, scores as outputs, and more than one axis of positions are not translated")
    parts = []
    for dense in (layer.query_dense, layer.key_dense, layer.value_dense):
        inputs, heads, size = dense.kernel.shape
        made = nn.Linear(inputs, heads * size, bias=dense.bias is not None)
        _fill(made.weight, dense.kernel, (1, 2, 0))
        if dense.bias is not None:
            _fill(made.bias, dense.bias)
        parts.append(made)
    dense = layer.output_dense
    heads, size, outputs = dense.kernel.shape
    last = nn.Linear(heads * size, outputs, bias=dense.bias is not None)
    _fill(last.weight, dense.kernel, (2, 0, 1))
    if dense.bias is not None:
        _fill(last.bias, dense.bias)
    if not math.isclose(layer.query_dense.kernel.shape[2], layer.key_dense.kernel.shape[2]):
        raise PacklightError("queries and keys of different sizes")
    values = [b.plain(v) for v in reads]
    return b.add(layer.name, layers.Attention(parts[0], parts[1], parts[2], last, heads), values, 3)

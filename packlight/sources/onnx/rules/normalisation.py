"""Normalisations and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch

from packlight.sources.onnx.op import Op, Rule, axis_of
from packlight.sources.onnx.values import Operand, Value

aten = torch.ops.aten


def batch_norm(op: Op, x: Operand, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    """Statistics that the file holds are torch's buffers; in train mode they are those of the batch."""
    eps, momentum = op.attribute("epsilon", 1e-5), op.attribute("momentum", 0.9)
    if op.attribute("training_mode", 0) or (op.version < 9 and not op.attribute("spatial", 1)):
        return _batch_norm_of_the_batch(op, x, scale, bias, mean, var)
    statistics = [op.statistic(op.cast(m, x.dtype)) for m in (mean, var)]
    args = (op.parameter(scale), op.parameter(bias), *statistics, False, 1.0 - momentum, eps, False)
    made = op.call(aten.batch_norm.default, x, *args)
    if isinstance(made, Value):
        made.node.meta["modes"] = {"training": (False, True)}
    return made


def _batch_norm_of_the_batch(op: Op, x: Operand, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    """(y, running mean, running variance), written out as the file says."""
    momentum, eps = op.attribute("momentum", 0.9), op.attribute("epsilon", 1e-5)
    axes = [0, *range(2, x.rank)]
    wide = [-1, *[1] * (x.rank - 2)]
    own_mean, own_var = op.call(aten.mean.dim, x, axes), op.call(aten.var.correction, x, axes, correction=0)
    kept = []
    for old, new in ((mean, own_mean), (var, own_var)):
        fading = op.call(aten.mul.Tensor, old, momentum)
        kept.append(op.call(aten.add.Tensor, fading, op.call(aten.mul.Tensor, new, 1 - momentum)))
    spread = op.call(aten.sqrt.default, op.call(aten.add.Tensor, own_var, eps))
    rows = [op.call(aten.reshape.default, t, wide) for t in (own_mean, spread, scale, bias)]
    y = op.call(aten.div.Tensor, op.call(aten.sub.Tensor, x, rows[0]), rows[1])
    y = op.call(aten.add.Tensor, op.call(aten.mul.Tensor, y, rows[2]), rows[3])
    return y, *kept


def instance_norm(op: Op, x: Operand, scale: Any, bias: Any) -> Any:
    options = (None, None, True, 0.1, op.attribute("epsilon", 1e-5), False)
    return op.call(aten.instance_norm.default, x, op.parameter(scale), op.parameter(bias), *options)


def group_norm(op: Op, x: Operand, scale: Any, bias: Any) -> Any:
    """Until operator set 21, scale and bias were one a group."""
    groups = op.attribute("num_groups")
    if op.version < 21:
        width = op.shape(x)[1] // groups
        scale, bias = (op.call(aten.repeat_interleave.self_int, t, width) for t in (scale, bias))
    options = (op.parameter(scale), op.parameter(bias), op.attribute("epsilon", 1e-5), False)
    return op.call(aten.group_norm.default, x, groups, *options)


def layer_norm(op: Op, x: Operand, scale: Any = None, bias: Any = None) -> Any:
    axis, eps = axis_of(op.attribute("axis", -1), x.rank), op.attribute("epsilon", 1e-5)
    axes = list(range(axis, x.rank))
    shape = [op.shape(x)[a] for a in axes]
    if not all(t is None or op.shape(t) == shape for t in (scale, bias)) or op.wants(1) or op.wants(2):
        return _layer_norm_written_out(op, x, scale, bias, axes, eps)
    return op.call(aten.layer_norm.default, x, shape, op.parameter(scale), op.parameter(bias), eps, False)


def _layer_norm_written_out(op: Op, x: Operand, scale: Any, bias: Any, axes: list[int], eps: float) -> Any:
    """(y, mean, 1 / standard deviation), computed in float32."""
    wide = op.cast(x, torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = op.call(aten.mean.dim, wide, axes, True)
    off = op.call(aten.sub.Tensor, wide, mean)
    var = op.call(aten.mean.dim, op.call(aten.mul.Tensor, off, off), axes, True)
    inverse = op.call(aten.rsqrt.default, op.call(aten.add.Tensor, var, eps))
    y = op.cast(op.call(aten.mul.Tensor, off, inverse), x.dtype)
    if scale is not None:
        y = op.call(aten.mul.Tensor, y, op.parameter(scale))
    return y if bias is None else op.call(aten.add.Tensor, y, op.parameter(bias)), mean, inverse


def rms_norm(op: Op, x: Operand, scale: Operand) -> Any:
    axis, eps = axis_of(op.attribute("axis", -1), x.rank), op.attribute("epsilon", 1e-5)
    shape = op.shape(x)[axis:]
    if op.shape(scale) == shape:
        return op.call(aten.rms_norm.default, x, shape, op.parameter(scale), eps)
    made = op.call(aten.rms_norm.default, x, shape, None, eps)
    return op.call(aten.mul.Tensor, made, op.parameter(scale))


def lrn(op: Op, x: Operand) -> Any:
    """x / (bias + alpha / size · Σ x²)^beta, the sum over neighbouring channels."""
    size, alpha = op.attribute("size"), op.attribute("alpha", 1e-4)
    beta, bias = op.attribute("beta", 0.75), op.attribute("bias", 1.0)
    squares = op.call(aten.mul.Tensor, x, x)
    padding = [0, 0] * (x.rank - 2) + [(size - 1) // 2, size - 1 - (size - 1) // 2]
    padded = op.call(aten.constant_pad_nd.default, squares, padding, 0.0)
    channels, total = op.shape(x)[1], None
    for i in range(size):
        part = op.call(aten.slice.Tensor, padded, 1, i, i + channels)
        total = part if total is None else op.call(aten.add.Tensor, total, part)
    base = op.call(aten.add.Tensor, op.call(aten.mul.Tensor, total, alpha / size), bias)
    return op.call(aten.div.Tensor, x, op.call(aten.pow.Tensor_Scalar, base, beta))


def mean_variance(op: Op, x: Operand) -> Any:
    axes = op.attribute("axes", [0, 2, 3])
    off = op.call(aten.sub.Tensor, x, op.call(aten.mean.dim, x, axes, True))
    var = op.call(aten.mean.dim, op.call(aten.mul.Tensor, off, off), axes, True)
    return op.call(aten.div.Tensor, off, op.call(aten.add.Tensor, op.call(aten.sqrt.default, var), 1e-9))


def lp_normalization(op: Op, x: Operand) -> Any:
    """x over its norm; where that is zero, zero."""
    norm = op.call(aten.linalg_vector_norm.default, x, op.attribute("p", 2), [op.attribute("axis", -1)], True)
    made = op.call(aten.div.Tensor, x, norm)
    return op.call(aten.masked_fill.Scalar, made, op.call(aten.eq.Scalar, norm, 0), 0)


def _flattened(target: Any) -> Any:
    """Until operator set 13 these worked on all axes from `axis` on."""

    def rule(op: Op, x: Operand) -> Any:
        if op.version >= 13:
            return target(op, x, axis_of(op.attribute("axis", -1), x.rank))
        axis = axis_of(op.attribute("axis", 1), x.rank)
        shape = op.shape(x)
        if axis == x.rank - 1:
            return target(op, x, axis)
        flat = op.call(aten.reshape.default, x, [*shape[:axis], math.prod(shape[axis:])])
        return op.call(aten.reshape.default, target(op, flat, axis), shape)

    return rule


def _softmax(op: Op, x: Operand, axis: int) -> Any:
    return op.call(aten.softmax.int, x, axis)


def _log_softmax(op: Op, x: Operand, axis: int) -> Any:
    return op.call(aten.log_softmax.int, x, axis)


def _hardmax(op: Op, x: Operand, axis: int) -> Any:
    """One where the first largest is, zero elsewhere."""
    places = op.constant(torch.arange(op.fixed(x, axis)).reshape([-1, *[1] * (x.rank - axis - 1)]))
    largest = op.call(aten.argmax.default, x, axis, True)
    return op.cast(op.call(aten.eq.Tensor, largest, places), x.dtype)


RULES: dict[str, Rule] = {
    "BatchNormalization": batch_norm, "InstanceNormalization": instance_norm, "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm, "RMSNormalization": rms_norm, "SimplifiedLayerNormalization": rms_norm,
    "LRN": lrn, "MeanVarianceNormalization": mean_variance, "LpNormalization": lp_normalization,
    "Softmax": _flattened(_softmax), "LogSoftmax": _flattened(_log_softmax), "Hardmax": _flattened(_hardmax),
}  # fmt: skip

"""Operators that work element by element."""

from __future__ import annotations

import math
from typing import Any

import torch

from packlight.sources.onnx.op import Op, Rule
from packlight.sources.onnx.values import Constant, Operand, Value

aten = torch.ops.aten
_WIDE = frozenset({torch.uint16, torch.uint32, torch.uint64})  # for which torch has few kernels


def unary(target: Any) -> Rule:
    return lambda op, x: op.call(target, x)


_WITH_NUMBERS = {  # comparisons have operators of their own for numbers
    packet.Tensor: packet.Scalar for packet in (aten.eq, aten.lt, aten.le, aten.gt, aten.ge)
}


def binary(target: Any) -> Rule:
    return lambda op, a, b: apply(op, target, a, b)


def apply(op: Op, target: Any, a: Operand, b: Operand) -> Any:
    """A binary operator, with a number where one side is a constant of one element."""
    if a.dtype in _WIDE:
        made = op.call(target, op.cast(a, torch.int64), op.cast(b, torch.int64))
        return made if made.dtype == torch.bool else op.cast(made, a.dtype)
    other = plain(a, b)
    if other is not b and target in _WITH_NUMBERS:
        target = _WITH_NUMBERS[target]
    return op.call(target, a, other)


def plain(a: Operand, b: Operand) -> Any:
    """`b` as a number, where it is a constant of one element that stretches no axis of `a`."""
    if isinstance(a, Value) and isinstance(b, Constant) and b.tensor.numel() == 1 and b.rank <= a.rank:
        number = b.tensor.item()
        return b if isinstance(number, float) and not math.isfinite(number) else number
    return b


def commutative(target: Any) -> Rule:
    def rule(op: Op, a: Operand, b: Operand) -> Any:
        return apply(op, target, b, a) if isinstance(a, Constant) and isinstance(b, Value) else apply(op, target, a, b)

    return rule


def folded(target: Any) -> Rule:
    """An operator of any number of inputs."""

    def rule(op: Op, first: Operand, *others: Operand) -> Any:
        for other in others:
            first = apply(op, target, first, other)
        return first

    return rule


def mean(op: Op, *inputs: Operand) -> Any:
    return op.call(aten.div.Tensor, folded(aten.add.Tensor)(op, *inputs), len(inputs))


def extreme(target: Any) -> Rule:
    """Min and Max have no form with a number, and none for some integers."""

    def rule(op: Op, first: Operand, *others: Operand) -> Any:
        for other in others:
            wide = first.dtype in _WIDE
            a, b = (op.cast(x, torch.int64) if wide else x for x in (first, other))
            first = op.cast(op.call(target, a, b), first.dtype)
        return first

    return rule


def div(op: Op, a: Operand, b: Operand) -> Any:
    if a.dtype.is_floating_point or a.dtype.is_complex:
        return apply(op, aten.div.Tensor, a, b)
    wide = a.dtype in _WIDE
    left, right = (op.cast(x, torch.int64) if wide else x for x in (a, b))
    return op.cast(op.call(aten.div.Tensor_mode, left, plain(left, right), rounding_mode="trunc"), a.dtype)


def mod(op: Op, a: Operand, b: Operand) -> Any:
    return apply(op, aten.fmod.Tensor if op.attribute("fmod", 0) else aten.remainder.Tensor, a, b)


def power(op: Op, base: Operand, exponent: Operand) -> Any:
    if isinstance(exponent, Constant) and exponent.tensor.numel() == 1 and exponent.rank <= base.rank:
        number = exponent.tensor.item()
        if base.dtype.is_floating_point or (number >= 0 and number == int(number)):
            number = int(number) if number == int(number) else number
            return op.cast(op.call(aten.pow.Tensor_Scalar, base, number), base.dtype)
    if base.dtype != exponent.dtype:
        common = torch.promote_types(base.dtype, exponent.dtype)
        return op.cast(op.call(aten.pow.Tensor_Tensor, op.cast(base, common), op.cast(exponent, common)), base.dtype)
    return op.call(aten.pow.Tensor_Tensor, base, exponent)


def bit_shift(op: Op, a: Operand, b: Operand) -> Any:
    left = op.attribute("direction") == "LEFT"
    return apply(op, aten.bitwise_left_shift.Tensor if left else aten.bitwise_right_shift.Tensor, a, b)


def clip(op: Op, x: Operand, low: Any = None, high: Any = None) -> Any:
    """Old operator sets hold the ends as attributes; ends that are computed are tensors."""
    low, high = (op.constant(op.attribute(n), x.dtype) if op.attribute(n) is not None else v
                 for n, v in (("min", low), ("max", high)))  # fmt: skip
    if low is None and high is None:
        return x
    if isinstance(low, Value) or isinstance(high, Value) or isinstance(x, Constant):
        low, high = (op.call(aten.reshape.default, v, []) if v is not None else None for v in (low, high))
        made = x
        if low is not None:
            made = extreme(aten.maximum.default)(op, made, low)
        return made if high is None else extreme(aten.minimum.default)(op, made, high)
    low, high = (None if v is None else op.number(v, "limits") for v in (low, high))
    if x.dtype in _WIDE:
        return op.cast(op.call(aten.clamp.default, op.cast(x, torch.int64), low, high), x.dtype)
    if (low, high) == (0, None) and x.dtype.is_floating_point:
        return op.call(aten.relu.default, x)
    if low is not None and high is not None and x.dtype.is_floating_point:
        return op.call(aten.hardtanh.default, x, low, high)
    return op.call(aten.clamp.default, x, low, high)


def relu(op: Op, x: Operand) -> Any:
    return op.call(aten.relu.default, x)


def leaky_relu(op: Op, x: Operand) -> Any:
    return op.call(aten.leaky_relu.default, x, op.attribute("alpha", 0.01))


def prelu(op: Op, x: Operand, slope: Operand) -> Any:
    """torch's own has one slope a channel; any other shape is written out."""
    shape = op.shape(slope)
    channels = next((s for s in shape if s != 1), 1)
    rank, at = x.rank, len(shape) - x.rank + 1
    one_axis = all(s == 1 for i, s in enumerate(shape) if i != at)
    if isinstance(slope, Constant) and rank >= 2 and one_axis:
        flat = op.trace.derived(op.parameter(slope), "flat", lambda t: t.reshape(channels))
        return op.call(aten.prelu.default, x, flat)
    negative = op.call(aten.mul.Tensor, x, op.parameter(slope))
    zero = op.call(aten.zeros_like.default, x)
    return op.call(aten.where.self, op.call(aten.lt.Tensor, x, zero), negative, x)


def elu(op: Op, x: Operand) -> Any:
    return op.call(aten.elu.default, x, op.attribute("alpha", 1.0))


def celu(op: Op, x: Operand) -> Any:
    return op.call(aten.celu.default, x, op.attribute("alpha", 1.0))


def selu(op: Op, x: Operand) -> Any:
    alpha, gamma = op.attribute("alpha", 1.6732632423543772), op.attribute("gamma", 1.0507009873554805)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6:
        return op.call(aten.selu.default, x)
    return op.call(aten.mul.Tensor, op.call(aten.elu.default, x, alpha), gamma)


def gelu(op: Op, x: Operand) -> Any:
    return op.call(aten.gelu.default, x, approximate=op.attribute("approximate", "none"))


def swish(op: Op, x: Operand) -> Any:
    """x · sigmoid(alpha · x)."""
    alpha = op.attribute("alpha", 1.0)
    if alpha == 1.0:
        return op.call(aten.silu.default, x)
    gate = op.call(aten.sigmoid.default, op.call(aten.mul.Tensor, x, alpha))
    return op.call(aten.mul.Tensor, x, gate)


def hard_sigmoid(op: Op, x: Operand) -> Any:
    alpha, beta = op.attribute("alpha", 0.2), op.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return op.call(aten.hardsigmoid.default, x)
    line = op.call(aten.add.Tensor, op.call(aten.mul.Tensor, x, alpha), beta)
    return op.call(aten.hardtanh.default, line, 0.0, 1.0)


def swiglu(op: Op, a: Operand, b: Operand) -> Any:
    return op.call(aten.mul.Tensor, swish(op, a), b)


def bitwise_not(op: Op, x: Operand) -> Any:
    return op.cast(op.call(aten.bitwise_not.default, op.cast(x, torch.int64) if x.dtype in _WIDE else x), x.dtype)


def thresholded_relu(op: Op, x: Operand) -> Any:
    return op.call(aten.threshold.default, x, op.attribute("alpha", 1.0), 0.0)


def shrink(op: Op, x: Operand) -> Any:
    """x − bias above lambd, x + bias below −lambd, 0 between."""
    bias, limit = op.attribute("bias", 0.0), op.attribute("lambd", 0.5)
    zero = op.call(aten.zeros_like.default, x)
    above, below = op.call(aten.gt.Scalar, x, limit), op.call(aten.lt.Scalar, x, -limit)
    up = op.cast(op.call(aten.add.Tensor, x, bias), x.dtype)
    down = op.cast(op.call(aten.sub.Tensor, x, bias), x.dtype)
    return op.call(aten.where.self, above, down, op.call(aten.where.self, below, up, zero))


def is_inf(op: Op, x: Operand) -> Any:
    negative, positive = op.attribute("detect_negative", 1), op.attribute("detect_positive", 1)
    found = op.call(aten.isinf.default, x)
    if negative and positive:
        return found
    sign = op.call(aten.lt.Scalar if negative else aten.gt.Scalar, x, 0)
    wanted = op.call(aten.logical_and.default, found, sign)
    return wanted if negative or positive else op.call(aten.zeros_like.default, found)


def sign(op: Op, x: Operand) -> Any:
    return op.cast(op.call(aten.sign.default, op.cast(x, torch.int64) if x.dtype in _WIDE else x), x.dtype)


def where(op: Op, condition: Operand, a: Operand, b: Operand) -> Any:
    return op.call(aten.where.self, condition, a, b)


def dropout(op: Op, x: Operand, ratio: Any = None, training: Any = None) -> Any:
    """The identity; where the file is written for training, its rate is kept for train mode."""
    given = op.number(ratio, "ratio") if ratio is not None else op.attribute("ratio", 0.5)
    trains = bool(op.number(training, "mode", False))
    made = x
    if isinstance(x, Value):
        made = op.call(aten.dropout.default, x, float(given), trains)
        made.node.meta["modes"] = {"train": (trains, True)}
    if not op.wants(1):
        return made
    return made, op.call(aten.ones_like.default, x, dtype=torch.bool)


def _identity(op: Op, x: Any) -> Any:
    return x


_UNARY: dict[str, Any] = {
    "Abs": aten.abs, "Acos": aten.acos, "Acosh": aten.acosh, "Asin": aten.asin, "Asinh": aten.asinh,
    "Atan": aten.atan, "Atanh": aten.atanh, "Ceil": aten.ceil, "Cos": aten.cos, "Cosh": aten.cosh, "Erf": aten.erf,
    "Exp": aten.exp, "Floor": aten.floor, "HardSwish": aten.hardswish, "IsNaN": aten.isnan, "Log": aten.log,
    "Mish": aten.mish, "Neg": aten.neg, "Not": aten.logical_not, "Reciprocal": aten.reciprocal, "Round": aten.round,
    "Sigmoid": aten.sigmoid, "Sin": aten.sin, "Sinh": aten.sinh, "Softplus": aten.softplus, "Sqrt": aten.sqrt,
    "Tan": aten.tan, "Tanh": aten.tanh,
}  # fmt: skip
_BINARY: dict[str, Any] = {
    "Sub": aten.sub.Tensor, "Equal": aten.eq.Tensor, "Less": aten.lt.Tensor, "LessOrEqual": aten.le.Tensor,
    "Greater": aten.gt.Tensor, "GreaterOrEqual": aten.ge.Tensor,
}  # fmt: skip
_LOGIC: dict[str, Any] = {
    "And": aten.logical_and.default, "Or": aten.logical_or.default, "Xor": aten.logical_xor.default,
    "BitwiseAnd": aten.bitwise_and.Tensor, "BitwiseOr": aten.bitwise_or.Tensor, "BitwiseXor": aten.bitwise_xor.Tensor,
}  # fmt: skip


def _softsign(op: Op, x: Operand) -> Any:
    below = op.call(aten.add.Tensor, op.call(aten.abs.default, x), 1.0)
    return op.call(aten.div.Tensor, x, below)


def _logic(target: Any) -> Rule:
    def rule(op: Op, a: Operand, b: Operand) -> Any:
        if a.dtype in _WIDE:
            return op.cast(op.call(target, op.cast(a, torch.int64), op.cast(b, torch.int64)), a.dtype)
        return op.call(target, a, b)

    return rule


RULES: dict[str, Rule] = {
    **{name: unary(packet.default) for name, packet in _UNARY.items()},
    **{name: binary(target) for name, target in _BINARY.items()},
    **{name: _logic(target) for name, target in _LOGIC.items()},
    "Add": commutative(aten.add.Tensor), "Mul": commutative(aten.mul.Tensor), "Div": div, "Mod": mod, "Pow": power,
    "Sum": folded(aten.add.Tensor), "Mean": mean, "Min": extreme(aten.minimum.default),
    "Max": extreme(aten.maximum.default), "BitShift": bit_shift, "Clip": clip, "Relu": relu, "LeakyRelu": leaky_relu,
    "PRelu": prelu, "Elu": elu, "Celu": celu, "Selu": selu, "Gelu": gelu, "Swish": swish, "SwiGLU": swiglu,
    "BitwiseNot": bitwise_not, "HardSigmoid": hard_sigmoid,
    "ThresholdedRelu": thresholded_relu, "Shrink": shrink, "IsInf": is_inf, "Sign": sign, "Where": where,
    "Dropout": dropout, "Identity": _identity, "Softsign": _softsign,
}  # fmt: skip

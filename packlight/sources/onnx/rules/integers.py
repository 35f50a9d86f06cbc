"""Operators on integers, dynamic ranges included → the float operator between quantizers, as packlight's reference form
has it.

MatMulInteger and ConvInteger stay exact integers, unless their result is multiplied by the scales of their operands:
then the float operator on the dequantized ones takes their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.sources.onnx.op import Op, Rule
from packlight.sources.onnx.rules.convolution import conv
from packlight.sources.onnx.rules.elementwise import commutative
from packlight.sources.onnx.rules.quantized import (
    BYTES,
    EIGHT_BITS,
    EPSILON,
    Dynamic,
    channel_weight,
    dequantize_by,
    limits,
    quantize_by,
    single,
    whole,
)
from packlight.sources.onnx.rules.shape import cast
from packlight.sources.onnx.values import Constant, Operand, Value

aten, ops = torch.ops.aten, torch.ops.quantized_decomposed


def dynamic_quantize(op: Op, x: Operand) -> Any:
    x = _runtime(op, x)
    scale, zero = op.call(ops.choose_qparams.tensor, x, 0, 255, EPSILON, torch.uint8)
    q = op.call(ops.quantize_per_tensor.tensor, x, scale, zero, 0, 255, torch.uint8)
    made = Dynamic(q, op.call(aten.reshape.default, op.cast(scale, torch.float32), []), (scale, zero))
    stored = op.call(aten.reshape.default, op.cast(zero, torch.uint8), [])
    for part in (q, made.scale, stored):
        op.trace.makes[part.node] = made
    return q, made.scale, stored


def _runtime(op: Op, x: Operand) -> Any:
    if not isinstance(x, Constant):
        return x
    return Value(op.trace.place(x), tuple(x.tensor.to("meta") for _ in range(op.trace.points)))


class Product:
    """The int32 result of MatMulInteger or ConvInteger, and the float operator that gives it times both scales."""

    def __init__(self, data: Dynamic, compute: Callable[[Op, Tensor], Any]):
        self.data, self.compute = data, compute


def matmul_integer(op: Op, a: Operand, b: Operand, a_zero: Any = None, b_zero: Any = None) -> Any:
    centred = [_centred(op, x, z, row) for x, z, row in ((a, a_zero, True), (b, b_zero, False))]
    made = op.cast(op.call(aten.matmul.default, *centred), torch.int32)
    source = dynamic(op, a, a_zero)
    plain = isinstance(b, Constant) and b.rank == 2 and (b_zero is None or isinstance(b_zero, Constant))
    if source is not None and plain:
        zeros = None if b_zero is None else b_zero.tensor

        def compute(op: Op, scale: Tensor) -> Any:
            weight = channel_weight(op, b, scale, zeros, 1)
            turned = op.trace.makes[weight.node].turned(op)
            return op.call(aten.linear.default, source.dequantized(op), turned)

        op.trace.makes[made.node] = Product(source, compute)
    return made


def dynamic(op: Op, a: Operand, zero: Any) -> Dynamic | None:
    found = [op.trace.makes.get(v.node) if isinstance(v, Value) else None for v in (a, zero)]
    return found[0] if isinstance(found[0], Dynamic) and found[0] is found[1] else None


def _centred(op: Op, x: Operand, zero: Any, rows: bool) -> Any:
    """x − zero, int64; one zero point a row of the first matrix or a column of the second."""
    x = op.cast(x, torch.int64)
    if zero is None:
        return x
    zero = op.cast(zero, torch.int64)
    if rows and zero.rank == 1 and op.shape(zero) != [1]:
        zero = op.call(aten.unsqueeze.default, zero, 1)
    return op.call(aten.sub.Tensor, x, zero)


def conv_integer(op: Op, x: Operand, w: Operand, x_zero: Any = None, w_zero: Any = None) -> Any:
    """In float64, where sums of products of bytes are exact."""
    data = op.cast(_centred(op, x, x_zero, False), torch.float64)
    weight = op.cast(w, torch.int64)
    if w_zero is not None:
        zero = op.cast(w_zero, torch.int64)
        zero = op.call(aten.reshape.default, zero, [-1, *[1] * (w.rank - 1)]) if zero.rank else zero
        weight = op.call(aten.sub.Tensor, weight, zero)
    weight = op.cast(weight, torch.float64)
    made = op.cast(_plain_conv(op, data, weight), torch.int32)
    source = dynamic(op, x, x_zero)
    if source is not None and isinstance(w, Constant) and (w_zero is None or isinstance(w_zero, Constant)):
        zeros = None if w_zero is None else w_zero.tensor

        def compute(later: Op, scale: Tensor) -> Any:
            return conv(op, source.dequantized(later), channel_weight(later, w, scale, zeros, 0))

        op.trace.makes[made.node] = Product(source, compute)
    return made


def _plain_conv(op: Op, x: Operand, weight: Operand) -> Any:
    made = conv(op, x, weight)
    if isinstance(weight, Constant):
        weight.weighs = False
    return made


def scaled_product(op: Op, a: Operand, b: Operand) -> Any:
    """Product · (scale of its data · scales of its weight) → the float operator on dequantized operands; None for
    anything else."""
    for product, scale in ((a, b), (b, a)):
        found = op.trace.makes.get(product.node) if isinstance(product, Value) else None
        if isinstance(found, Product) and isinstance(scale, Value):
            scales = op.trace.makes.get(scale.node)
            if isinstance(scales, _Scales) and scales.data is found.data:
                return found.compute(op, scales.weight)
        if isinstance(found, Dynamic) and product is found.scale and isinstance(scale, Constant):
            made = op.call(aten.mul.Tensor, product, scale)
            op.trace.makes[made.node] = _Scales(found, scale.tensor.reshape(-1))
            return made
    return None


class _Scales:
    """scale of the data · scales of a weight."""

    def __init__(self, data: Dynamic, weight: Tensor):
        self.data, self.weight = data, weight


def qlinear(compute: Callable[..., Any]) -> Callable[..., Any]:
    """compute(op, dequantized inputs…) on inputs given as (q, scale, zero) each, its result quantized."""

    def rule(op: Op, *given: Any) -> Any:
        count = 1 if len(given) <= 5 else 2
        rows = [given[3 * i : 3 * i + 3] for i in range(count)]
        scale, zero = (*given[3 * count :], None)[:2]
        return quantized_like(op, compute(op, *(operand(op, *row) for row in rows)), scale, zero)

    return rule


def operand(op: Op, q: Operand, scale: Operand, zero: Any) -> Any:
    if single(scale) and single(zero) and q.dtype in BYTES and isinstance(q, Value) and scale.dtype == torch.float32:
        return dequantize_by(op, q, float(scale.tensor), whole(zero))
    return _dequantized_rows(op, q, scale, zero)


def _dequantized_rows(op: Op, q: Operand, scale: Operand, zero: Any) -> Any:
    wide = op.cast(q, torch.float32)
    wide = wide if zero is None else op.call(aten.sub.Tensor, wide, op.cast(zero, torch.float32))
    return op.call(aten.mul.Tensor, wide, op.cast(scale, torch.float32))


def quantized_like(op: Op, x: Any, scale: Any, zero: Any) -> Any:
    dtype = zero.dtype if zero is not None else torch.uint8
    if single(scale) and single(zero) and isinstance(x, Value) and x.dtype == torch.float32 and dtype in BYTES:
        return quantize_by(op, x, float(scale.tensor), whole(zero), dtype)
    made = op.call(aten.round.default, op.call(aten.div.Tensor, x, op.cast(scale, x.dtype)))
    made = made if zero is None else op.call(aten.add.Tensor, made, op.cast(zero, x.dtype))
    if dtype in EIGHT_BITS:
        raise PacklightError(f"{op.kind} of float8; packlight takes integers")
    return op.cast(op.call(aten.clamp.default, made, *map(float, limits(dtype))), dtype)


def qlinear_conv(
    op: Op, x: Operand, xs: Any, xz: Any, w: Any, ws: Any, wz: Any, ys: Any, yz: Any, b: Any = None
) -> Any:
    data = operand(op, x, xs, xz)
    known = all(isinstance(t, Constant) or t is None for t in (w, ws, wz, b)) and isinstance(xs, Constant)
    if known and w.dtype in BYTES:
        weight = channel_weight(op, w, ws.tensor, None if wz is None else wz.tensor, 0)
    else:
        sizes = [-1, *[1] * (w.rank - 1)]
        ws, wz = (t if t is None or t.rank == 0 else op.call(aten.reshape.default, t, sizes) for t in (ws, wz))
        weight = _dequantized_rows(op, w, ws, wz)
    bias = None
    if b is not None:
        unit = op.call(aten.reshape.default, op.call(aten.mul.Tensor, xs, ws), [-1])
        bias = op.call(aten.mul.Tensor, op.cast(b, torch.float32), unit)
        if isinstance(bias, Constant):
            bias.name = b.name
    return quantized_like(op, conv(op, data, weight, bias), ys, yz)


def qlinear_matmul(op: Op, a: Operand, sa: Any, za: Any, b: Operand, sb: Any, zb: Any, sy: Any, zy: Any) -> Any:
    data = operand(op, a, *(_column(op, t) for t in (sa, za)))
    known = all(isinstance(t, Constant) or t is None for t in (b, sb, zb))
    if known and b.rank == 2 and b.dtype in BYTES and isinstance(data, Value) and data.rank >= 2:
        weight = channel_weight(op, b, sb.tensor, None if zb is None else zb.tensor, 1)
        made = op.call(aten.linear.default, data, op.trace.makes[weight.node].turned(op))
    else:
        made = op.call(aten.matmul.default, data, _dequantized_rows(op, b, sb, zb))
    return quantized_like(op, made, *(_column(op, t) for t in (sy, zy)))


def _column(op: Op, t: Any) -> Any:
    """One a row of a matrix, to be broadcast against it."""
    several = isinstance(t, Value | Constant) and t.rank == 1 and op.shape(t) != [1]
    return op.call(aten.unsqueeze.default, t, 1) if several else t


def mul(op: Op, a: Operand, b: Operand) -> Any:
    made = scaled_product(op, a, b)
    return commutative(aten.mul.Tensor)(op, a, b) if made is None else made


def cast_product(op: Op, x: Operand) -> Any:
    """A product of integers stays known as one when it becomes float."""
    made = cast(op, x)
    found = op.trace.makes.get(x.node) if isinstance(x, Value) else None
    if isinstance(found, Product) and made.dtype == torch.float32:
        op.trace.makes[made.node] = found
    return made


RULES: dict[str, Rule] = {
    "DynamicQuantizeLinear": dynamic_quantize, "MatMulInteger": matmul_integer, "ConvInteger": conv_integer,
    "QLinearConv": qlinear_conv, "QLinearMatMul": qlinear_matmul, "Mul": mul, "Cast": cast_product,
}  # fmt: skip

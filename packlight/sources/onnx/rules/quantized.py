"""Quantized operators → the reference form: quantize_per_tensor, dequantize_per_tensor … around float operators.

A constant behind DequantizeLinear becomes a float parameter behind a quantize/dequantize pair per channel, whose
quantized value is the file's, so that it can be trained on. Integer operators (QLinearConv, QLinearMatMul, …) are the
float operator between such pairs; that is what runtimes compute, to the rounding of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from packlight.model.operators import load_quantized_operators
from packlight.sources.onnx.dtypes import NARROW
from packlight.sources.onnx.op import Op, Rule, axis_of
from packlight.sources.onnx.rules.contraction import QuantizedWeight
from packlight.sources.onnx.rules.shape import cast_to
from packlight.sources.onnx.values import Constant, Operand, Value

load_quantized_operators()
aten, ops = torch.ops.aten, torch.ops.quantized_decomposed
BYTES = (torch.int8, torch.uint8)
_SIXTEEN = (torch.int16, torch.uint16)
EIGHT_BITS = frozenset({torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz})
EPSILON = 2.0**-126


def limits(dtype: torch.dtype) -> tuple[int, int]:
    info = torch.iinfo(dtype)
    return int(info.min), int(info.max)


def single(x: Any) -> bool:
    """Whether a scale or zero point is one known number (or left out)."""
    return x is None or (isinstance(x, Constant) and x.tensor.numel() == 1)


def quantize(op: Op, x: Operand, scale: Operand, zero: Any = None) -> Any:
    code = op.attribute("output_dtype", 0)
    value = op.node.inputs[2] if len(op.node.inputs) > 2 else None
    if value is not None and value.dtype is not None:
        code = int(value.dtype)
    dtype = zero.dtype if zero is not None else op.dtype("output_dtype") if code else torch.uint8
    low, high = NARROW.get(code) or (limits(dtype) if not dtype.is_floating_point else (0, 0))
    plain = dtype in BYTES and code not in NARROW and x.dtype == torch.float32 and scale.dtype == torch.float32
    if plain and single(scale) and single(zero) and isinstance(x, Value) and scale.rank <= 1:
        return quantize_by(op, x, float(scale.tensor), whole(zero), dtype)
    return _quantize_written_out(op, x, scale, zero, code or 0, (low, high))


def quantize_by(op: Op, x: Operand, scale: float, zero: int, dtype: torch.dtype) -> Any:
    return op.call(ops.quantize_per_tensor.default, x, scale, zero, *limits(dtype), dtype)


def dequantize_by(op: Op, q: Operand, scale: float, zero: int) -> Any:
    return op.call(ops.dequantize_per_tensor.default, q, scale, zero, *limits(q.dtype), q.dtype)


def whole(zero: Any) -> int:
    return 0 if zero is None else int(zero.tensor)


def _quantize_written_out(op: Op, x: Operand, scale: Operand, zero: Any, code: int, ends: tuple[int, int]) -> Any:
    """saturate(round(x / scale) + zero) with scales along an axis or in blocks, and into any type."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = op.cast(x, wide)
    held = torch.uint8 if zero is None else zero.dtype
    scale, zero = (None if t is None else _spread(op, x, t) for t in (op.cast(scale, wide), zero))
    made = op.call(aten.div.Tensor, x, scale)
    if code in (17, 18, 19, 20, 23):
        return cast_to(op, made, code)
    made = op.call(aten.round.default, made)
    if zero is not None:
        made = op.call(aten.add.Tensor, made, op.cast(zero, wide))
    made = op.call(aten.clamp.default, made, float(ends[0]), float(ends[1]))
    if zero is None and code:
        return cast_to(op, made, code)
    return op.cast(made, torch.uint8 if zero is None else held)


def _spread(op: Op, x: Operand, scale: Operand) -> Any:
    """A scale or zero point, to be broadcast against x: one, one along an axis, or one a block."""
    one = scale.rank == 1 and op.shape(scale) == [1] and x.rank > 0 and not op.attribute("block_size", 0)
    if scale.rank == 0 or one:
        return op.call(aten.reshape.default, scale, []) if scale.rank else scale
    axis, block = axis_of(op.attribute("axis", 1), x.rank), op.attribute("block_size", 0)
    if block:
        whole = op.call(aten.repeat_interleave.self_int, scale, block, axis)
        return op.call(aten.slice.Tensor, whole, axis, 0, op.shape(x)[axis])
    return op.call(aten.reshape.default, scale, [-1 if a == axis else 1 for a in range(x.rank)])


def dequantize(op: Op, q: Operand, scale: Operand, zero: Any = None) -> Any:
    """A constant is a weight, or a bias where it has 32 bits."""
    known = isinstance(scale, Constant) and (zero is None or isinstance(zero, Constant))
    if isinstance(q, Constant) and q.dtype in BYTES and known and scale.dtype == torch.float32 and q.rank >= 1:
        return _weight(op, q, scale, zero)
    if isinstance(q, Value) and q.dtype in BYTES and known and single(scale) and scale.dtype == torch.float32:
        return dequantize_by(op, q, float(scale.tensor), whole(zero))
    dynamic = op.trace.makes.get(q.node) if isinstance(q, Value) else None
    if isinstance(dynamic, Dynamic) and scale is dynamic.scale:
        return dynamic.dequantized(op)
    made = _dequantized(op, q, scale, zero)
    if isinstance(made, Constant):
        made.name, made.weighs = q.name, True
    return made


def _dequantized(op: Op, q: Operand, scale: Operand, zero: Any) -> Any:
    """(q − zero) · scale in the scale's type."""
    dtype = op.dtype("output_dtype", scale.dtype) if op.attribute("output_dtype", 0) else scale.dtype
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    integers = not q.dtype.is_floating_point
    made = op.cast(q, torch.int64 if integers and zero is not None else wide)
    if zero is not None:
        zero = op.cast(_spread(op, q, zero), made.dtype)
        made = op.call(aten.sub.Tensor, made, zero)
    return op.cast(op.call(aten.mul.Tensor, op.cast(made, wide), op.cast(_spread(op, q, scale), wide)), dtype)


def _weight(op: Op, q: Constant, scale: Constant, zero: Any) -> Any:
    """A parameter behind a pair per channel, or per block of a matrix's axis; a single scale is every channel's."""
    one, block = scale.tensor.numel() == 1, op.attribute("block_size", 0)
    axis = 0 if one and not block else axis_of(op.attribute("axis", 1), q.rank)  # of one scale it means nothing
    value = op.node.inputs[0]
    code = int(value.dtype) if value is not None and value.dtype is not None else 0
    ends = NARROW.get(code) or limits(q.dtype)
    if block:
        return _blocks(op, q, scale, zero, axis, block, ends)
    if one:
        axis = 1 if q.rank == 2 and not _turned(op) else 0
    return channel_weight(op, q, scale.tensor, None if zero is None else zero.tensor, axis, ends)


def _turned(op: Op) -> bool:
    """Whether a matrix is read as torch stores it, [outputs, inputs]."""
    readers = [(u.node.op_type, u.node.attributes) for u in op.node.outputs[0].uses()]
    return any((k == "Gemm" and "transB" in a and a["transB"].value) or k in ("Gather", "Conv") for k, a in readers)


def channel_weight(
    op: Op, q: Constant, scale: Tensor, zero: Tensor | None, axis: int, ends: tuple[int, int] | None = None
) -> Any:
    """The value of a float parameter behind quantize_per_channel, whose integers are `q`."""
    whole = zero is not None and bool(zero.any())
    shift = 128 if q.dtype == torch.uint8 else 0
    integers, zeros = (q.tensor.int() - shift).to(torch.int8), torch.zeros(1) if zero is None else zero.int()
    zeros = (zeros.float() - shift if whole or shift else zeros).reshape(-1)
    low, high = ends or limits(q.dtype)
    sizes = [-1 if a == axis else 1 for a in range(q.rank)]
    channels = q.tensor.shape[axis]
    scales = scale.float().reshape(-1).expand(channels).contiguous()
    zeros = zeros.to(torch.int64).expand(channels).contiguous()
    master = (integers.float() - zeros.reshape(sizes).float()) * scales.reshape(sizes)
    name = q.name or f"{op.trace.name}.weight"
    constants = [Constant(master, name, weighs=True), Constant(scales, f"{name}_scale"),
                 Constant(zeros, f"{name}_zero_point")]  # fmt: skip

    def pair(op: Op, axis: int, parts: list[Constant]) -> Any:
        settings = (*parts[1:], axis, low - shift, high - shift, torch.int8)
        stored = op.trace.call_apart(ops.quantize_per_channel.default, parts[0], *settings)
        return op.call(ops.dequantize_per_channel.default, stored, *settings)

    made = pair(op, axis, constants)
    if q.rank == 2:
        across = [op.trace.derived(constants[0], "turned", lambda t: t.t().contiguous()), *constants[1:]]
        op.trace.makes[made.node] = QuantizedWeight(lambda op: pair(op, 1 - axis, across))
    return made


def _blocks(op: Op, q: Constant, scale: Constant, zero: Any, axis: int, block: int, ends: tuple[int, int]) -> Any:
    """A matrix with blocks along its first axis (as MatMul has its inputs) or its last."""
    if q.rank != 2 or q.tensor.shape[axis] % block:
        made = _dequantized(op, q, scale, zero)
        made.name, made.weighs = q.name, True
        return made
    turn = axis == 0
    rows, scales = (t.tensor.t() if turn else t.tensor for t in (q, scale))
    zeros = torch.zeros_like(scales, dtype=torch.int64)
    zeros = zeros if zero is None else (zero.tensor.t() if turn else zero.tensor).to(torch.int64)
    made = block_weight(op, rows, scales, zeros, block, ends, q.name or f"{op.trace.name}.weight")
    if not turn:
        return made
    across = op.call(aten.permute.default, made, [1, 0])
    op.trace.makes[across.node] = QuantizedWeight(lambda op: made)
    return across


def block_weight(
    op: Op, rows: Tensor, scales: Tensor, zeros: Tensor, block: int, ends: tuple[int, int], name: str
) -> Any:
    """A parameter [outputs, inputs] behind quantize_per_channel_group. rows: its integers; scales, zeros: [outputs,
    blocks]."""
    low, high = ends
    shift = (high + 1 + low) // 2 if low == 0 else 0  # the reference form stores int8
    wide = [t.repeat_interleave(block, 1) for t in (scales.float(), zeros - shift)]
    master = ((rows.int() - shift).float() - wide[1].float()) * wide[0]
    parts = [Constant(master.contiguous(), name, weighs=True), Constant(scales.float().contiguous(), f"{name}_scale"),
             Constant((zeros - shift).contiguous(), f"{name}_zero_point")]  # fmt: skip
    settings = (*parts[1:], low - shift, high - shift, torch.int8, block)
    stored = op.trace.call_apart(ops.quantize_per_channel_group.default, parts[0], *settings)
    return op.trace.call_apart(ops.dequantize_per_channel_group.default, stored, *settings, torch.float32)


class Dynamic:
    """A value that DynamicQuantizeLinear quantized, its scale, and the scale and zero point as torch chose them."""

    def __init__(self, q: Value, scale: Value, chosen: tuple[Value, Value]):
        self.q, self.scale, self.chosen = q, scale, chosen
        self._made: Any = None

    def dequantized(self, op: Op) -> Any:
        settings = (*self.chosen, 0, 255, torch.uint8)
        self._made = self._made or op.call(ops.dequantize_per_tensor.tensor, self.q, *settings)
        return self._made


def on_grid(rule: Rule) -> Rule:
    """A rule that moves or picks elements, on what was quantized: between dequantize and quantize of the same scale,
    which changes no value and lets gradients through."""

    def made(op: Op, x: Any = None, *others: Any) -> Any:
        known = isinstance(x, Value) and x.node.target is ops.quantize_per_tensor.default
        if not known or not isinstance(x.node.args[1], float):
            return rule(op, x, *others)
        scale, zero = x.node.args[1:3]
        results = rule(op, dequantize_by(op, x, scale, zero), *others)
        if not isinstance(results, list | tuple):
            return quantize_by(op, results, scale, zero, x.dtype)
        return [quantize_by(op, r, scale, zero, x.dtype) if r.dtype == torch.float32 else r for r in results]

    return made


def clamp_on_grid(rule: Rule, below: bool) -> Rule:
    """The rule of Max (below) or Min, on what was quantized and one integer: a clamp before that quantize, which gives
    the same integers and lets gradients through."""

    def made(op: Op, x: Any = None, *others: Any) -> Any:
        bound = others[0] if len(others) == 1 and isinstance(others[0], Constant) else None
        known = isinstance(x, Value) and x.node.target is ops.quantize_per_tensor.default
        if not known or bound is None or not single(bound) or not isinstance(x.node.args[1], float):
            return rule(op, x, *others)
        data, scale, zero = x.node.args[:3]
        end = (int(bound.tensor) - zero) * scale
        low, high = (end, None) if below else (None, end)
        if not below and data.target is aten.relu.default:
            data, low = data.args[0], 0.0
        real = Value(data, tuple(m.float() for m in x.metas))
        plain = below and end == 0
        clamped = op.call(aten.relu.default, real) if plain else op.call(aten.clamp.default, real, low, high)
        return quantize_by(op, clamped, scale, zero, x.dtype)

    return made


RULES: dict[str, Rule] = {"QuantizeLinear": quantize, "DequantizeLinear": dequantize}

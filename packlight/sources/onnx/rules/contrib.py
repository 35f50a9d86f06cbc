"""Operators of Microsoft's domain that exporters and ONNX Runtime's optimizer write."""

from __future__ import annotations

from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.op import Op
from packlight.sources.onnx.rules import attention, elementwise, integers, quantized
from packlight.sources.onnx.rules.contraction import matmul
from packlight.sources.onnx.rules.convolution import conv
from packlight.sources.onnx.values import Constant, Operand, Value

aten = torch.ops.aten


def gelu(op: Op, x: Operand) -> Any:
    return op.call(aten.gelu.default, x)


def fast_gelu(op: Op, x: Operand, bias: Any = None) -> Any:
    x = x if bias is None else op.call(aten.add.Tensor, x, op.parameter(bias))
    return op.call(aten.gelu.default, x, approximate="tanh")


def bias_gelu(op: Op, x: Operand, bias: Any) -> Any:
    return op.call(aten.gelu.default, op.call(aten.add.Tensor, x, op.parameter(bias)))


def quick_gelu(op: Op, x: Operand) -> Any:
    gate = op.call(aten.sigmoid.default, op.call(aten.mul.Tensor, x, op.attribute("alpha", 1.702)))
    return op.call(aten.mul.Tensor, x, gate)


def skip_layer_norm(op: Op, x: Operand, skip: Operand, scale: Any, shift: Any = None, bias: Any = None) -> Any:
    """Layer norm of x + skip + bias; that sum is the fourth output."""
    total = op.call(aten.add.Tensor, x, skip)
    total = total if bias is None else op.call(aten.add.Tensor, total, op.parameter(bias))
    made = _norm(op, total, scale, shift)
    return made, None, None, total


def _norm(op: Op, x: Operand, scale: Any, shift: Any) -> Any:
    eps, width = op.attribute("epsilon", 1e-12), [op.shape(x)[-1]]
    return op.call(aten.layer_norm.default, x, width, op.parameter(scale), op.parameter(shift), eps, False)


def skip_rms_norm(op: Op, x: Operand, skip: Operand, scale: Any, bias: Any = None) -> Any:
    total = op.call(aten.add.Tensor, x, skip)
    total = total if bias is None else op.call(aten.add.Tensor, total, op.parameter(bias))
    width = [op.shape(x)[-1]]
    made = op.call(aten.rms_norm.default, total, width, op.parameter(scale), op.attribute("epsilon", 1e-5))
    return made, None, None, total


def embed_layer_norm(op: Op, tokens: Operand, segments: Any, words: Any, places: Any, kinds: Any, scale: Any,
                     shift: Any, mask: Any = None, positions: Any = None) -> Any:  # fmt: skip
    """Layer norm of the sum of a word's, its place's and its segment's embedding; and how long each row is."""
    total = op.call(aten.embedding.default, op.parameter(words), op.cast(tokens, torch.int64))
    if positions is None:
        count = op.shape(tokens)[1]
        seen = op.call(aten.slice.Tensor, op.parameter(places), 0, 0, count) if isinstance(places, Value) else \
            op.call(aten.embedding.default, op.parameter(places),
                    op.call(aten.arange.default, count, dtype=torch.int64, device=torch.device("cpu")))  # fmt: skip
    else:
        seen = op.call(aten.embedding.default, op.parameter(places), op.cast(positions, torch.int64))
    total = op.call(aten.add.Tensor, total, seen)
    if segments is not None:
        kind = op.call(aten.embedding.default, op.parameter(kinds), op.cast(segments, torch.int64))
        total = op.call(aten.add.Tensor, total, kind)
    lengths = None
    if op.wants(1):
        if mask is None:
            zeros = op.call(aten.new_zeros.default, tokens, [op.shape(tokens)[0]], dtype=torch.int32)
            lengths = op.call(aten.add.Tensor, zeros, 0)
        else:
            lengths = op.cast(op.call(aten.sum.dim_IntList, mask, [1]), torch.int32)
    return _norm(op, total, scale, shift), lengths, total


def fused_matmul(op: Op, a: Operand, b: Operand) -> Any:
    if op.attribute("transBatchA", 0) or op.attribute("transBatchB", 0):
        raise PacklightError("FusedMatMul that turns batch axes; export it with separate operators")
    if op.attribute("transA", 0):
        a = op.call(aten.transpose.int, a, -1, -2)
    if op.attribute("transB", 0):
        plain = isinstance(b, Constant) and b.rank == 2 and isinstance(a, Value)
        made = op.call(aten.linear.default, a, op.parameter(b)) if plain else op.call(
            aten.matmul.default, a, op.call(aten.transpose.int, b, -1, -2))  # fmt: skip
    else:
        made = matmul(op, a, b)
    alpha = op.attribute("alpha", 1.0)
    return made if alpha == 1.0 else op.call(aten.mul.Tensor, made, alpha)


def activated(op: Op, x: Operand) -> Any:
    """What FusedConv and FusedGemm do last."""
    name = op.attribute("activation")
    if not name:
        return x
    parameters = op.attribute("activation_params") or []
    match name:
        case "Relu" | "Tanh" | "Sigmoid":
            return elementwise.RULES[name](op, x)
        case "LeakyRelu":
            return op.call(aten.leaky_relu.default, x, (parameters or [op.attribute("activation_alpha", 0.01)])[0])
        case "Clip":
            return op.call(aten.hardtanh.default, x, *parameters)
        case "HardSigmoid":
            line = op.call(aten.add.Tensor, op.call(aten.mul.Tensor, x, parameters[0]), parameters[1])
            return op.call(aten.hardtanh.default, line, 0.0, 1.0)
    raise PacklightError(f"{op.kind} with activation {name!r}")


def fused_conv(op: Op, x: Operand, weight: Operand, bias: Any = None, residual: Any = None) -> Any:
    made = conv(op, x, weight, bias)
    made = made if residual is None else op.call(aten.add.Tensor, made, residual)
    return activated(op, made)


def matmul_nbits(
    op: Op, a: Operand, packed: Any, scales: Any, zeros: Any = None, order: Any = None, bias: Any = None
) -> Any:
    """A linear layer whose weight [N, K] is packed, `bits` an element in blocks along K with a scale each."""
    outputs, inputs = op.attribute("N"), op.attribute("K")
    bits, block = op.attribute("bits", 4), op.attribute("block_size")
    known = all(isinstance(t, Constant) or t is None for t in (packed, scales, zeros))
    if not known or order is not None or bits not in (2, 4, 8) or inputs % block:
        raise PacklightError("MatMulNBits with computed weights, reordered groups, or a last block that is not full")
    rows = _unpacked(packed.tensor.reshape(outputs, -1), bits)[:, :inputs]
    blocks = inputs // block
    middle = torch.full((outputs, blocks), 1 << (bits - 1), dtype=torch.int64)
    if zeros is not None and zeros.dtype == torch.uint8:
        middle = _unpacked(zeros.tensor.reshape(outputs, -1), bits)[:, :blocks].to(torch.int64)
    elif zeros is not None:
        raise PacklightError("MatMulNBits with zero points in float")
    grid = scales.tensor.reshape(outputs, blocks)
    weight = quantized.block_weight(op, rows, grid, middle, block, (0, (1 << bits) - 1), packed.name)
    return op.call(aten.linear.default, a, weight, op.parameter(bias))


def _unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [rows, bytes] → [rows, elements], low bits first."""
    shifts = torch.arange(0, 8, bits)
    return ((packed.int().unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).reshape(packed.shape[0], -1)


def _binary(target: Any) -> Any:
    return integers.qlinear(lambda op, a, b: op.call(target, a, b))


def _unary(compute: Any) -> Any:
    return integers.qlinear(compute)


def qlinear_pool(op: Op, x: Operand, xs: Any, xz: Any, ys: Any, yz: Any) -> Any:
    data = integers.operand(op, x, xs, xz)
    pooled = op.call(aten.mean.dim, data, list(range(2, data.rank)), True)
    return integers.quantized_like(op, pooled, ys, yz)


def qlinear_concat(op: Op, ys: Any, yz: Any, *rows: Any) -> Any:
    parts = [integers.operand(op, *rows[i : i + 3]) for i in range(0, len(rows), 3)]
    return integers.quantized_like(op, op.call(aten.cat.default, parts, op.attribute("axis", 1)), ys, yz)


def qlinear_softmax(op: Op, x: Operand, xs: Any, xz: Any, ys: Any, yz: Any) -> Any:
    data = integers.operand(op, x, xs, xz)
    return integers.quantized_like(op, op.call(aten.softmax.int, data, op.attribute("axis", -1)), ys, yz)


def qgemm(
    op: Op, a: Operand, sa: Any, za: Any, b: Any, sb: Any, zb: Any, c: Any = None, sy: Any = None, zy: Any = None
) -> Any:
    """alpha · A · B + C, with C in units of both scales."""
    data = integers.operand(op, a, sa, za)
    across = bool(op.attribute("transB", 0))
    weight = quantized.channel_weight(op, b, sb.tensor, None if zb is None else zb.tensor, 0 if across else 1)
    weight = weight if across else op.trace.makes[weight.node].turned(op)
    bias = None
    if c is not None:
        bias = Constant(c.tensor.float().reshape(-1) * (sa.tensor * sb.tensor).reshape(-1), c.name)
    made = op.call(aten.linear.default, data, weight, op.parameter(bias))
    return made if sy is None else integers.quantized_like(op, made, sy, zy)


def dynamic_matmul(op: Op, a: Operand, b: Any, sb: Any, zb: Any = None, bias: Any = None) -> Any:
    """DynamicQuantizeMatMul: the data's range is taken at run time."""
    _, scale, _ = integers.dynamic_quantize(op, a)
    data = op.trace.makes[scale.node].dequantized(op)
    weight = quantized.channel_weight(op, b, sb.tensor, None if zb is None else zb.tensor, 1)
    return op.call(aten.linear.default, data, op.trace.makes[weight.node].turned(op), op.parameter(bias))


def scaled_integers(
    op: Op, a: Operand, b: Any, sa: Any, sb: Any, za: Any = None, zb: Any = None, bias: Any = None
) -> Any:
    """MatMulIntegerToFloat."""
    source = integers.dynamic(op, a, za)
    if source is None or not all(isinstance(t, Constant) or t is None for t in (b, sb, zb)):
        raise PacklightError("MatMulIntegerToFloat of other data than DynamicQuantizeLinear gives")
    weight = quantized.channel_weight(op, b, sb.tensor, None if zb is None else zb.tensor, 1)
    return op.call(
        aten.linear.default, source.dequantized(op), op.trace.makes[weight.node].turned(op), op.parameter(bias)
    )


RULES = {
    **attention.CONTRIB, "Gelu": gelu, "FastGelu": fast_gelu, "BiasGelu": bias_gelu, "QuickGelu": quick_gelu,
    "SkipLayerNormalization": skip_layer_norm, "SkipSimplifiedLayerNormalization": skip_rms_norm,
    "EmbedLayerNormalization": embed_layer_norm, "FusedMatMul": fused_matmul, "FusedConv": fused_conv,
    "MatMulNBits": matmul_nbits, "QLinearAdd": _binary(aten.add.Tensor), "QLinearMul": _binary(aten.mul.Tensor),
    "QLinearSigmoid": _unary(lambda op, x: op.call(aten.sigmoid.default, x)),
    "QLinearLeakyRelu": _unary(lambda op, x: op.call(aten.leaky_relu.default, x, op.attribute("alpha", 0.01))),
    "QLinearGlobalAveragePool": qlinear_pool, "QLinearConcat": qlinear_concat, "QLinearSoftmax": qlinear_softmax,
    "QGemm": qgemm, "DynamicQuantizeMatMul": dynamic_matmul, "MatMulIntegerToFloat": scaled_integers,
    "QuantizeLinear": quantized.quantize, "DequantizeLinear": quantized.dequantize,
}  # fmt: skip

"""Ranges taken at run time: what torch's exporter has no ONNX for, and the integer kernels that want it.

    x ─ DynamicQuantizeLinear ─ q, s, z        MatMulInteger(q, W, z) ─ Cast ─ Mul(s · scale(W)) ─ Add(bias)

ONNX Runtime computes the right side as one kernel. Left as DequantizeLinear before a float MatMul, it would widen the
whole weight at every call, which was seen to take 10 to 40 times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from packlight.targets.onnx_graph import initializer


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """torch operator → ONNX, for the operators with a range that is a tensor, and those of weights in blocks, which
    packlight.targets.onnx_blocks replaces."""
    import torch
    from onnxscript import opset18 as op
    from onnxscript import opset21

    from packlight.model.operators import load_quantized_operators

    load_quantized_operators()
    ops = torch.ops.quantized_decomposed

    def choose(x: Any, quant_min: int, quant_max: int, eps: float, dtype: int) -> Any:
        _, scale, zero = op.DynamicQuantizeLinear(x)
        return scale, zero

    def quantize(x: Any, scale: Any, zero: Any, quant_min: int, quant_max: int, dtype: int) -> Any:
        return op.QuantizeLinear(x, scale, zero)

    def dequantize(
        q: Any, scale: Any, zero: Any, quant_min: int, quant_max: int, dtype: int, out_dtype: int = -1
    ) -> Any:
        return op.DequantizeLinear(q, scale, zero)

    def dequantize_blocks(
        q: Any, scales: Any, zeros: Any, quant_min: int, quant_max: int, dtype: int, group: int, out_dtype: int = -1
    ) -> Any:
        return opset21.DequantizeLinear(q, scales, zeros, axis=1, block_size=group)

    return {
        ops.dequantize_per_channel_group.default: dequantize_blocks,
        ops.choose_qparams.tensor: choose,
        ops.quantize_per_tensor.tensor: quantize,
        ops.dequantize_per_tensor.tensor: dequantize,
    }


def multiply_integers(model: ir.Model) -> None:
    """MatMul and Gemm on values quantized at run time and on integer weights → MatMulInteger, in place."""
    for node in list(model.graph):
        if node.op_type == "QuantizeLinear":
            _quantize_once(node)
    for node in list(model.graph):
        if node.op_type in ("MatMul", "Gemm") and (operands := _operands(node)) is not None:
            _multiply(model, node, *operands)


def _quantize_once(node: ir.Node) -> None:
    """QuantizeLinear with the scale that DynamicQuantizeLinear took of the same value → what that one quantized."""
    chosen = node.inputs[1].producer() if node.inputs[1] is not None else None
    if chosen is not None and chosen.op_type == "DynamicQuantizeLinear" and chosen.inputs[0] is node.inputs[0]:
        node.outputs[0].replace_all_uses_with(chosen.outputs[0])


def _operands(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The DequantizeLinear of the value and of the weight, where the node multiplies such."""
    data, weight = (v.producer() if v is not None else None for v in node.inputs[:2])
    if data is None or weight is None or {data.op_type, weight.op_type} != {"DequantizeLinear"}:
        return None
    scale, integers = data.inputs[1], weight.inputs[0]
    chosen = scale.producer() if scale is not None else None
    if chosen is None or chosen.op_type != "DynamicQuantizeLinear" or data.inputs[0] is not chosen.outputs[0]:
        return None
    if integers is None or integers.const_value is None or integers.const_value.numpy().ndim != 2:
        return None
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if node.op_type == "Gemm" and any(_attribute(node, k, v) != v for k, v in plain.items()):
        return None
    if len(weight.inputs) > 2 and weight.inputs[2] is not None and np.any(weight.inputs[2].const_value.numpy()):  # type: ignore[union-attr]
        return None
    turned = node.op_type == "Gemm" and bool(_attribute(node, "transB", 0))
    single = weight.inputs[1].const_value.numpy().size == 1  # type: ignore[union-attr]
    output_axis = 0 if turned else 1
    return (data, weight) if single or weight.attributes.get_int("axis", 1) % 2 == output_axis else None


def _multiply(model: ir.Model, node: ir.Node, data: ir.Node, weight: ir.Node) -> None:
    integers, scales = weight.inputs[:2]
    assert integers is not None and integers.const_value is not None
    if node.op_type == "Gemm" and _attribute(node, "transB", 0):
        integers = initializer(model, f"{integers.name}_transposed", integers.const_value.numpy().T)
    quantized, scale, zero = data.inputs[:3]
    made = [ir.node("MatMulInteger", [quantized, integers, zero], name=f"{node.name}/MatMulInteger")]
    made.append(ir.node("Cast", [made[0].outputs[0]], {"to": ir.DataType.FLOAT.value}, name=f"{node.name}/Cast"))
    made.append(ir.node("Mul", [scale, scales], name=f"{node.name}/scale"))
    made.append(ir.node("Mul", [made[1].outputs[0], made[2].outputs[0]], name=f"{node.name}/Mul"))
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        made.append(ir.node("Add", [made[-1].outputs[0], node.inputs[2]], name=f"{node.name}/Add"))
    made[-1].name = node.name
    result, old = made[-1].outputs[0], node.outputs[0]
    for step in made[:-1]:
        step.outputs[0].name = f"{step.name}:0"
        model.graph.insert_before(node, step)
    model.graph.insert_before(node, made[-1])
    result.name, result.shape, result.type = old.name, old.shape, old.type
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _attribute(node: ir.Node, name: str, default: float) -> float:
    found = node.attributes.get(name)
    return default if found is None else found.value

"""Weights that are stored as integers and computed with in float.

A table is read a few rows at a time, so the rows are picked first and widened then. Any other constant is widened by
Cast and Mul, which ONNX Runtime computes once, when it opens the file; DequantizeLinear it would compute at every call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from packlight.targets.onnx_graph import initializer

_KERNELS = ("Conv", "Gemm", "MatMul")


def pick_then_widen(model: ir.Model) -> None:
    """Gather(DequantizeLinear(table)) → the picked rows of the table, and of its scales, multiplied; in place."""
    for node in list(model.graph):
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0 or node.outputs[0].is_graph_output():
            continue
        dequantize = node.inputs[0].producer() if node.inputs[0] is not None else None
        stored = _stored(dequantize)
        if stored is None or dequantize is None:
            continue
        table, scales, axis = stored
        if scales.size > 1 and axis != 0:
            continue
        rows = ir.node("Gather", [table, node.inputs[1]], {"axis": 0}, name=f"{node.name}/rows")
        rows.outputs[0].name = f"{node.name}/rows:0"
        model.graph.insert_before(node, rows)
        if scales.size > 1:
            column = scales.reshape(-1, *[1] * (len(table.const_value.shape) - 1))
            factor = ir.node(
                "Gather", [initializer(model, f"{table.name}_scales", column), node.inputs[1]], {"axis": 0},
                name=f"{node.name}/scales",
            )  # fmt: skip
            factor.outputs[0].name = f"{node.name}/scales:0"
            model.graph.insert_before(node, factor)
            _widen(model, node, rows.outputs[0], factor.outputs[0], node.outputs[0])
        else:
            _widen(model, node, rows.outputs[0], initializer(model, f"{table.name}_scales", scales.reshape(())),
                   node.outputs[0])  # fmt: skip
        model.graph.remove(node, safe=True)


def widen_at_opening(model: ir.Model) -> None:
    """DequantizeLinear of constants that no integer kernel reads → Cast and Mul, in place."""
    for node in list(model.graph):
        stored = _stored(node)
        if stored is None or node.outputs[0].is_graph_output() or _read_by_kernel(node):
            continue
        integers, scales, axis = stored
        rank = len(integers.const_value.shape)
        shape = [-1 if i == axis % rank else 1 for i in range(rank)] if scales.size > 1 else ()
        factor = initializer(model, f"{integers.name}_scales", scales.reshape(shape))
        _widen(model, node, integers, factor, node.outputs[0])
        model.graph.remove(node, safe=True)


def _stored(node: ir.Node | None) -> tuple[Any, Any, int] | None:
    """(8-bit constant, its scales, axis) of a DequantizeLinear without zero points."""
    if node is None or node.op_type != "DequantizeLinear":
        return None
    integers, scale, *zero = node.inputs
    if integers is None or integers.const_value is None or scale is None or scale.const_value is None:
        return None
    if integers.const_value.dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        return None
    shift = content(zero[0]) if zero and zero[0] is not None else np.zeros(())
    if shift is None or np.any(shift):
        return None
    return integers, scale.const_value.numpy(), node.attributes.get_int("axis", 1)


def content(value: ir.Value) -> Any | None:
    """What a constant holds, also behind a Cast: the exporter leaves one in front of long zero points."""
    source = value.producer()
    if value.const_value is None and source is not None and source.op_type == "Cast" and source.inputs[0] is not None:
        value = source.inputs[0]
    return None if value.const_value is None else value.const_value.numpy()


def _read_by_kernel(node: ir.Node) -> bool:
    """Whether an operator reads it together with quantized activations."""
    for use in node.outputs[0].uses():
        others = [v.producer() for i, v in enumerate(use.node.inputs[:2]) if v is not None and i != use.idx]
        if use.node.op_type in _KERNELS and any(o is not None and o.op_type == "DequantizeLinear" for o in others):
            return True
    return False


def _widen(model: ir.Model, before: ir.Node, integers: Any, factor: ir.Value, old: ir.Value) -> None:
    """old := float(integers) · factor, inserted before a node."""
    cast = ir.node("Cast", [integers], {"to": ir.DataType.FLOAT.value}, name=f"{before.name}/Cast")
    cast.outputs[0].name = f"{before.name}/Cast:0"
    product = ir.node("Mul", [cast.outputs[0], factor], name=before.name)
    result = product.outputs[0]
    model.graph.insert_before(before, cast)
    model.graph.insert_before(before, product)
    result.name, result.shape, result.type = old.name, old.shape, old.type
    old.replace_all_uses_with(result)

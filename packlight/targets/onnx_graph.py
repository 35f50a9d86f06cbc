"""What ONNX Runtime's quantized kernels want of a graph that the exporter does not do by itself.

Each step is one function on an onnx_ir.Model, in place, and keeps the outputs the same (to the rounding of
an int32 bias, and of float16 where that is asked for).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

from packlight.targets.onnxruntime import rounded_bias

_SMALL = 64


def finish(model: ir.Model, *, float16: bool) -> None:
    """All steps, then everything stripped that no runtime needs."""
    pool_globally(model)
    transpose_constants(model)
    quantize_biases(model)
    drop_defaults(model)
    if float16:
        store_float16(model)
    strip(model)


def pool_globally(model: ir.Model) -> None:
    """ReduceMean over all spatial axes, kept → GlobalAveragePool, which has a quantized kernel."""
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        axes, rank = node.inputs[1], len(node.inputs[0].shape)
        if axes is None or axes.const_value is None or rank < 3 or not node.attributes.get_int("keepdims", 1):
            continue
        if sorted(int(a) % rank for a in axes.const_value.numpy()) != list(range(2, rank)):
            continue
        pooled = ir.node("GlobalAveragePool", [node.inputs[0]], name=node.name)
        pooled.outputs[0].name, pooled.outputs[0].shape = node.outputs[0].name, node.outputs[0].shape
        pooled.outputs[0].type = node.outputs[0].type
        model.graph.insert_before(node, pooled)
        node.outputs[0].replace_all_uses_with(pooled.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def transpose_constants(model: ir.Model) -> None:
    """Transpose(DequantizeLinear(constant)) → DequantizeLinear of the transposed constant, scale axis moved.

    A linear layer on more than two axes is exported so, and a MatMul kernel wants its weight dequantized last.
    """
    for node in list(model.graph):
        dequantize = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        integers = dequantize.inputs[0]
        if integers is None or integers.const_value is None or len(integers.uses()) != 1:
            continue
        order = list(node.attributes["perm"].as_ints())
        axis = dequantize.attributes.get_int("axis", 1)
        _replace_constant(model, integers, np.transpose(integers.const_value.numpy(), order))
        scale = dequantize.inputs[1]
        if scale is not None and scale.shape is not None and len(scale.shape):
            dequantize.attributes["axis"] = ir.AttrInt64("axis", order.index(axis % len(order)))
        node.outputs[0].replace_all_uses_with(dequantize.outputs[0])
        model.graph.remove(node, safe=True)


def quantize_biases(model: ir.Model) -> None:
    """Float biases of quantized Conv and Gemm → DequantizeLinear(int32) at scale(activation) · scale(weight).

    The kernels add the bias to their int32 accumulator; left in float it would keep the operator in float.
    """
    for node in list(model.graph):
        if node.op_type not in ("Conv", "Gemm") or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        data, weight = (v.producer() if v is not None else None for v in node.inputs[:2])
        bias = node.inputs[2]
        if data is None or weight is None or bias.const_value is None:
            continue
        if data.op_type != "DequantizeLinear" or weight.op_type != "DequantizeLinear":
            continue
        scale = _constant(data.inputs[1]) * _constant(weight.inputs[1])
        values = bias.const_value.numpy()
        scale = np.broadcast_to(scale.astype(np.float32).reshape(-1), values.shape)
        name = bias.name or f"{node.name}.bias"
        stored = _initializer(model, f"{name}_integer", rounded_bias(values, scale))
        scales = _initializer(model, f"{name}_scale", np.ascontiguousarray(scale))
        dequantize = ir.node("DequantizeLinear", [stored, scales], {"axis": 0}, name=f"{name}.dequantize")
        dequantize.outputs[0].name = f"{name}_dequantized"
        model.graph.insert_before(node, dequantize)
        node.replace_input_with(2, dequantize.outputs[0])


def drop_defaults(model: ir.Model) -> None:
    """Leave out the axis of single scales, which has no meaning there. (Zero points stay: QGemm insists on them.)"""
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and _constant(node.inputs[1]).ndim == 0:
            node.attributes.pop("axis", None)


def store_float16(model: ir.Model) -> None:
    """Float32 constants → float16 constants cast back to float32 when the file is opened.

    Computing stays in float32, so only the storage is rounded; constants beyond float16's range, and small
    ones, stay as they are.
    """
    for value in list(model.graph.initializers.values()):
        constant = value.const_value
        if constant is None or value.dtype != ir.DataType.FLOAT or constant.size < _SMALL:
            continue
        content = constant.numpy()
        if np.abs(content).max() > np.finfo(np.float16).max:
            continue
        stored = _initializer(model, f"{value.name}_float16", content.astype(np.float16))
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value}, name=f"{value.name}.cast")
        cast.outputs[0].name = f"{value.name}_float32"
        model.graph.insert_before(model.graph[0], cast)
        value.replace_all_uses_with(cast.outputs[0])


def strip(model: ir.Model) -> None:
    """Remove unused constants, exporter metadata, documentation and inner shapes; share equal constants."""
    DeduplicateInitializersPass()(model)
    RemoveUnusedNodesPass()(model)
    model.producer_name, model.producer_version, model.doc_string = "packlight", None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
            if not value.is_graph_output():
                value.type = value.shape = None


def _constant(value: ir.Value | None) -> Any:
    if value is None or value.const_value is None:
        raise ValueError("a quantization scale is not constant")
    return value.const_value.numpy()


def _initializer(model: ir.Model, name: str, content: Any) -> ir.Value:
    """A new constant under a free name."""
    free, i = name, 0
    while free in model.graph.initializers:
        i += 1
        free = f"{name}_{i}"
    value = ir.Value(name=free, const_value=ir.tensor(np.ascontiguousarray(content), name=free))
    value.shape, value.type = ir.Shape(content.shape), ir.TensorType(value.const_value.dtype)  # type: ignore[union-attr]
    model.graph.register_initializer(value)
    return value


def _replace_constant(model: ir.Model, old: ir.Value, content: Any) -> None:
    new = _initializer(model, old.name or "constant", content)
    old.replace_all_uses_with(new)

"""What ONNX Runtime's quantized kernels want of a graph that the exporter does not do by itself.

Each step is one function on an onnx_ir.Model, in place, and keeps the outputs the same (to the rounding of
an int32 bias, and of float16 where that is asked for).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

from packlight.targets.float16 import fits_float16
from packlight.targets.onnx_convert import unique_names

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_SMALL = 64
_LARGEST_BIAS = 2**30  # leaves the int32 accumulator as much again for the products


def finish(model: ir.Model, *, float16: bool, integer_clamps: bool = False) -> None:
    """All steps, then everything stripped that no runtime needs. integer_clamps: as ONNX Runtime wants them, and
    readers of ONNX files for other runtimes do not."""
    from packlight.targets.onnx_blocks import multiply_blocks, widen_blocks
    from packlight.targets.onnx_clamps import clamp_integers, separate_activations
    from packlight.targets.onnx_codebooks import pack_indices
    from packlight.targets.onnx_dynamic import multiply_integers
    from packlight.targets.onnx_storage import pick_then_widen, widen_at_opening

    pack_indices(model)
    pool_globally(model)
    multiply_blocks(model)
    widen_blocks(model)
    transpose_constants(model)
    multiply_integers(model)
    pick_then_widen(model)
    widen_at_opening(model)
    quantize_biases(model)
    separate_activations(model)
    if integer_clamps:
        clamp_integers(model)
    drop_defaults(model)
    if float16:
        store_float16(model)
    strip(model)
    unique_names(model)


def pool_globally(model: ir.Model) -> None:
    """ReduceMean over all spatial axes, kept → GlobalAveragePool, which has a quantized kernel."""
    for node in list(model.graph):
        data = node.inputs[0] if node.op_type == "ReduceMean" and len(node.inputs) == 2 else None
        if data is None or data.shape is None:
            continue
        axes, rank = node.inputs[1], len(data.shape)
        if axes is None or axes.const_value is None or rank < 3 or not node.attributes.get_int("keepdims", 1):
            continue
        if sorted(int(a) % rank for a in axes.const_value.numpy()) != list(range(2, rank)):
            continue
        pooled = ir.node("GlobalAveragePool", [data], name=node.name)
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
        if integers is None or integers.const_value is None or node.outputs[0].is_graph_output():
            continue
        if len(integers.uses()) != 1 or len(dequantize.outputs[0].uses()) != 1:
            continue
        rank = integers.const_value.numpy().ndim
        perm = node.attributes.get("perm")
        order = list(perm.as_ints()) if perm is not None else list(range(rank))[::-1]
        axis = dequantize.attributes.get_int("axis", 1)
        _replace_constant(model, integers, np.transpose(integers.const_value.numpy(), order))
        scale = dequantize.inputs[1]
        if scale is not None and scale.shape is not None and len(scale.shape):
            dequantize.attributes["axis"] = ir.AttrInt64("axis", order.index(axis % rank))
        node.outputs[0].replace_all_uses_with(dequantize.outputs[0])
        model.graph.remove(node, safe=True)


def quantize_biases(model: ir.Model) -> None:
    """Float biases of quantized Conv and Gemm → DequantizeLinear(int32) at scale(activation) · scale(weight).

    The kernels add the bias to their int32 accumulator; left in float it would keep the operator in float.
    """
    for node in list(model.graph):
        if node.op_type not in ("Conv", "Gemm") or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        bias = node.inputs[2]
        if not reads_quantized(node) or bias.const_value is None or len(bias.const_value.shape) != 1:
            continue
        data, weight = (value.producer() for value in node.inputs[:2])  # type: ignore[union-attr]
        assert data is not None and weight is not None
        values, input_scale = bias.const_value.numpy(), _constant(data.inputs[1])
        _make_room(model, node, weight, values, input_scale)
        weight_scale = _constant(node.inputs[1].producer().inputs[1])  # type: ignore[union-attr]
        scale = np.broadcast_to((input_scale * weight_scale).astype(np.float32).reshape(-1), values.shape)
        name = f"{node.name}.bias"
        stored = initializer(model, f"{name}_integer", rounded_bias(values, scale))
        scales = initializer(model, f"{name}_scale", np.ascontiguousarray(scale))
        dequantize = ir.node("DequantizeLinear", [stored, scales], {"axis": 0}, name=f"{name}.dequantize")
        dequantize.outputs[0].name = f"{stored.name}_dequantized"
        model.graph.insert_before(node, dequantize)
        node.replace_input_with(2, dequantize.outputs[0])


def rounded_bias(bias: Any, scale: Any) -> Any:
    """A float bias [channels] as int32 in units of `scale` (> 0), the accumulator's; clipped to what int32 holds."""
    return np.clip(np.rint(bias.astype(np.float64) / scale), -(2**31), 2**31 - 1).astype(np.int32)


def coarser(scale: Any, bias: Any, input_scale: float) -> Any:
    """Weight scales float32, like `scale` ([channels] or one), large enough for the bias beside them.

    A channel whose weights are all but zero has a tiny scale, in units of which its bias leaves int32: batch norms
    with γ = 0 fold to that.
    """
    least = np.abs(bias.astype(np.float64)) / (_LARGEST_BIAS * float(input_scale))
    least = least if scale.size > 1 else least.max(initial=0.0)
    return np.maximum(scale, least).astype(np.float32).reshape(scale.shape)


def _make_room(model: ir.Model, node: ir.Node, weight: ir.Node, bias: Any, input_scale: Any) -> None:
    """Give the node a coarser copy of its weight where its bias asks for one."""
    scale, integers = _constant(weight.inputs[1]), weight.inputs[0]
    wanted = coarser(scale, bias, input_scale)
    if integers is None or integers.const_value is None or np.array_equal(wanted, scale):
        return
    old, axis = integers.const_value.numpy(), weight.attributes.get_int("axis", 1)
    shape = [-1 if i == axis % old.ndim else 1 for i in range(old.ndim)]
    rounded = np.rint(old * (scale.astype(np.float64) / wanted).reshape(shape if scale.ndim else ())).astype(old.dtype)
    inputs = [
        initializer(model, integers.name or "weight", rounded),
        initializer(model, f"{integers.name}_scale", wanted),
        *weight.inputs[2:],
    ]
    copy = ir.node("DequantizeLinear", inputs, {"axis": axis}, name=f"{node.name}.weight.dequantize")
    copy.outputs[0].name = f"{inputs[0].name}_dequantized"  # type: ignore[union-attr]
    model.graph.insert_before(node, copy)
    node.replace_input_with(1, copy.outputs[0])


def drop_defaults(model: ir.Model) -> None:
    """Leave out the axis of single scales, which has no meaning there. (Zero points stay: QGemm insists on them.)"""
    for node in model.graph:
        scale = node.inputs[1].const_value if node.op_type in _QUANTIZERS and node.inputs[1] is not None else None
        if scale is not None and len(scale.shape) == 0:
            node.attributes.pop("axis", None)


def store_float16(model: ir.Model) -> None:
    """Float32 constants → float16 constants cast back to float32 when the file is opened.

    Computing stays in float32, so only the storage is rounded. Small constants stay as they are, quantization
    scales too, and those that float16 has not the range for.
    """
    for value in list(model.graph.initializers.values()):
        constant = value.const_value
        if constant is None or value.dtype != ir.DataType.FLOAT or constant.size < _SMALL or _is_scale(value):
            continue
        halved = fits_float16(constant.numpy())
        if halved is None:
            continue
        stored = initializer(model, f"{value.name}_float16", halved)
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
    inner = [*model.graph.initializers.values(), *(output for node in model.graph for output in node.outputs)]
    for value in inner:
        if not value.is_graph_output():
            value.type = value.shape = None
    for thing in (*model.graph.inputs, *model.graph.outputs, *inner, *model.graph):
        thing.metadata_props.clear()
        thing.doc_string = None


def _constant(value: ir.Value | None) -> Any:
    if value is None or value.const_value is None:
        raise ValueError("a quantization scale is not constant")
    return value.const_value.numpy()


def reads_quantized(node: ir.Node) -> bool:
    """Whether its first two inputs (or its only one) come from DequantizeLinear."""
    sources = [value.producer() if value is not None else None for value in node.inputs[:2]]
    return all(source is not None and source.op_type == "DequantizeLinear" for source in sources)


def _is_scale(value: ir.Value) -> bool:
    return any(use.idx == 1 and use.node.op_type in _QUANTIZERS for use in value.uses())


def initializer(model: ir.Model, name: str, content: Any) -> ir.Value:
    """A new constant under a free name."""
    free, i = name, 0
    while free in model.graph.initializers:
        i += 1
        free = f"{name}_{i}"
    value = ir.Value(name=free, const_value=ir.tensor(np.asarray(content, order="C"), name=free))
    value.shape, value.type = ir.Shape(content.shape), ir.TensorType(value.const_value.dtype)  # type: ignore[union-attr]
    model.graph.register_initializer(value)
    return value


def _replace_constant(model: ir.Model, old: ir.Value, content: Any) -> None:
    """Give the readers of a constant another one, which takes its name."""
    name = old.name or "constant"
    model.graph.initializers.pop(name, None)
    old.replace_all_uses_with(initializer(model, name, content))

"""A quantized ONNX graph as MNN's converter takes it: the graph in float, and beside it the scales of every layer.

MNN reads no QDQ graph. Its converter makes int8 layers of a float graph and a list of scales (its "compression
parameters"): of a layer's input and result, one each with a zero point of 0, and of its weights, one a channel. The
weights written into the float graph are scale · q, so the integers that it finds again are ours. A tensor of its files
has one scale for all that read it.

Its average pooling of int8 tensors is off by several steps, so average pools become convolutions in float beside int8
layers, and no layer gets int8 from one that cannot (padding that does not count).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from packlight.targets.onnx_graph import initializer, transpose_constants

_LAYERS = ("Conv", "Gemm", "MatMul")
_CLAMPS = ("Relu", "Clip")
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool")


class Scales(NamedTuple):
    """What a graph in float stands for. layers: MNN's entries, several a layer where its result can have several
    names. bits: of all other weights, 0 where they are not integers that the converter would find again. static: how
    many layers have entries. stored: how many others have weights of integers."""

    layers: list[dict[str, Any]]
    bits: int
    static: int
    stored: int


def take_scales(model: ir.Model) -> Scales:
    """Compute in float, in place, and return the scales that were taken out."""
    transpose_constants(model)
    pools = _pools_as_convolutions(model)
    layers: list[dict[str, Any]] = []
    static, rest, integers = 0, [], 0
    for node in model.graph:
        if node.op_type not in _LAYERS or node in pools or not _has_constant(node):
            continue
        entries = _entries(node)
        layers += entries
        static += bool(entries)
        weight = _dequantize(node.inputs[1])
        if not entries:
            rest.append(_bits(weight) if weight is not None else 0)
            integers += weight is not None
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear":
            _compute_in_float(model, node)
    bits = rest[0] if rest and all(b == rest[0] for b in rest) else 0
    return Scales(layers, bits, static, integers)


def _pools_as_convolutions(model: ir.Model) -> set[ir.Node]:
    """Average pools of a quantized graph → depthwise convolutions with equal weights, in place; these."""
    made = set()
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph)
    for node in [n for n in model.graph if quantized and n.op_type == "AveragePool"]:
        data, window = node.inputs[0], node.attributes["kernel_shape"].as_ints()
        pads = node.attributes.get_ints("pads", [0])
        partial = any(pads) and not node.attributes.get_int("count_include_pad", 0)
        channels = data.shape[1] if data is not None and data.shape is not None else None
        if partial or node.attributes.get_int("ceil_mode") or not isinstance(channels, int):
            continue
        weight = np.full((channels, 1, *window), 1 / np.prod(window), np.float32)
        kept = {k: node.attributes[k].value for k in ("kernel_shape", "strides", "pads") if k in node.attributes}
        pooled = ir.node("Conv", [data, initializer(model, f"{node.name}.weight", weight)], {**kept, "group": channels},
                         name=node.name)  # fmt: skip
        result = node.outputs[0]
        pooled.outputs[0].name, pooled.outputs[0].shape, pooled.outputs[0].type = result.name, result.shape, result.type
        model.graph.insert_before(node, pooled)
        result.replace_all_uses_with(pooled.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        made.add(pooled)
    return made


def _entries(node: ir.Node) -> list[dict[str, Any]]:
    """Of a layer that reads and writes int8; none for another."""
    data, weight = (_dequantize(v) for v in node.inputs[:2])
    if data is None or weight is None or _is_pooled(data):
        return []
    result, names = node.outputs[0], [node.outputs[0].name]
    while len(users := [use.node for use in result.uses()]) == 1 and _belongs(node, users[0]):
        result = users[0].outputs[0]
        names.append(result.name)
    quantize = users[0] if users and users[0].op_type == "QuantizeLinear" and len(users) == 1 else None
    if quantize is None:
        return []
    names += [use.node.outputs[0].name for use in quantize.outputs[0].uses()]
    scales = np.broadcast_to(_constant(weight.inputs[1]).reshape(-1), (_channels(node, weight),))
    high = int(np.abs(_constant(weight.inputs[0]).astype(np.int32)).max(initial=1))
    return [
        {
            "input": [_activation(data, data.outputs[0].name)],
            "weight": [{"name": weight.name, "scales": scales.tolist(), "clampMin": -high, "clampMax": high}],
            "output": [_activation(quantize, name)],
        }
        for name in dict.fromkeys(names)
    ]


def _activation(node: ir.Node, name: str | None) -> dict[str, Any]:
    scale = float(_constant(node.inputs[1]))
    return {"name": name, "scales": [scale], "zeroPoint": 0, "clampMin": -127, "clampMax": 127}


def _belongs(layer: ir.Node, user: ir.Node) -> bool:
    """Whether a reader of a layer's result becomes a part of it: a bias of a MatMul, or a clamp."""
    bias = user.op_type == "Add" and layer.op_type == "MatMul" and any(
        v is not None and v.const_value is not None for v in user.inputs
    )  # fmt: skip
    return bias or user.op_type in _CLAMPS


def _is_pooled(dequantize: ir.Node) -> bool:
    """Whether a quantized activation is an average pool's result, as it is or moved."""
    quantize = dequantize.inputs[0].producer() if dequantize.inputs[0] is not None else None
    while quantize is not None:
        value = quantize.inputs[0]
        source = value.producer() if value is not None else None
        if source is None or source.op_type not in (*_MOVES, "QuantizeLinear", "DequantizeLinear"):
            return source is not None and source.op_type == "AveragePool"
        quantize = source
    return False


def _bits(weight: ir.Node) -> int:
    """The bits that the converter needs to find a weight's integers again, 0 where it cannot: it divides by the largest
    magnitude of each channel, so that must be the largest integer of its format."""
    integers, axis = _constant(weight.inputs[0]).astype(np.int32), weight.attributes.get_int("axis", 1)
    rest = tuple(i for i in range(integers.ndim) if i != axis % integers.ndim)
    largest = {int(n) for n in np.abs(integers).max(axis=rest)}
    return next((b for b in range(2, 9) if largest == {2 ** (b - 1) - 1}), 0)


def _compute_in_float(model: ir.Model, node: ir.Node) -> None:
    """Weights: the values that their integers stand for. Activations: what was quantized."""
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    if source.const_value is not None:
        integers, scale = _constant(source).astype(np.float64), _constant(node.inputs[1])
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[node.attributes.get_int("axis", 1) % integers.ndim] = -1
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        offset = _constant(zero).reshape(shape) if zero is not None else 0
        values = ((integers - offset) * scale.reshape(shape)).astype(np.float32)
        result.replace_all_uses_with(initializer(model, f"{node.name}.value", values))
        return
    quantize = source.producer()
    assert quantize is not None and quantize.inputs[0] is not None
    if not result.is_graph_output():
        result.replace_all_uses_with(quantize.inputs[0])
        return
    same = ir.node("Identity", [quantize.inputs[0]], name=f"{node.name}.float")
    same.outputs[0].name, same.outputs[0].shape, same.outputs[0].type = result.name, result.shape, result.type
    model.graph.insert_before(node, same)
    result.replace_all_uses_with(same.outputs[0], replace_graph_outputs=True)


def _has_constant(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and (weight.const_value is not None or _reads_constant(_dequantize(weight)))


def _reads_constant(node: ir.Node | None) -> bool:
    return node is not None and node.inputs[0] is not None and node.inputs[0].const_value is not None


def _dequantize(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _channels(node: ir.Node, weight: ir.Node) -> int:
    shape = _constant(weight.inputs[0]).shape
    transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get_int("transB", 0))
    return int(shape[-1 if transposed else 0])


def _constant(value: ir.Value | None) -> Any:
    assert value is not None and value.const_value is not None, "scales and weights are constants"
    return value.const_value.numpy()

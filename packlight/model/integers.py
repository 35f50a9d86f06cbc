"""Quantized weights and biases as the integers that a runtime stores."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model.floats import freeze_floats
from packlight.model.model import Model
from packlight.model.operators import argument, kind, load_quantized_operators, packet


class Grid(NamedTuple):
    """The values that a quantized weight can have: scale · (q − zero), q from low to high. scale (> 0) and zero: of
    the weight's rank, to be broadcast against it."""

    scale: Tensor
    zero: Tensor
    low: int
    high: int


def grid(model: Model, node: Node) -> Grid:
    """Of a weight's quantize or dequantize node, with scales per channel or per block of one."""
    shape = cast("Tensor", node.meta["val"]).shape
    scale, zero = (model.tensor(cast("Node", a)) for a in node.args[1:3])
    ends = int(argument(node, "quant_min")), int(argument(node, "quant_max"))
    if packet(node).endswith("_group"):
        group = int(argument(node, "group_size"))
        scale, zero = (t.reshape(shape[0], -1).repeat_interleave(group, 1) for t in (scale, zero))
        return Grid(scale, zero, *ends)
    sizes = [-1 if i == argument(node, "axis") else 1 for i in range(len(shape))]
    return Grid(scale.reshape(sizes), zero.reshape(sizes), *ends)


def freeze(model: Model) -> Model:
    """A copy whose quantized weights are integer or low-precision buffers, masters dropped; same outputs."""
    load_quantized_operators()
    model = model.copy()
    for node in model.nodes:
        source = node.args[0] if node.args else None
        if packet(node).startswith("quantize_per_") and isinstance(source, Node) and source.op == "get_attr":
            settings = [model.tensor(a) if isinstance(a, Node) else a for a in node.args[1:]]
            integers = node.target(model.tensor(source).detach(), *settings)  # type: ignore[operator]
            name = f"{source.target}_integer"
            model.set_tensor(name, integers)
            with model.graph_module.graph.inserting_before(node):
                stored = model.graph_module.graph.get_attr(name)
            stored.meta["val"] = torch.empty_like(integers, device="meta")
            node.replace_all_uses_with(stored)
            model.graph_module.graph.erase_node(node)
    freeze_floats(model)
    _clamp(model)
    return model.tidy()


def _clamp(model: Model) -> None:
    """Runtimes that store 8 bits know no narrower range of an activation: it is clipped before it is quantized."""
    graph = model.graph_module.graph
    for node in model.nodes:
        if packet(node) != "quantize_per_tensor" or isinstance(node.args[1], Node):
            continue
        source, scale, zero, low, high, dtype = cast("tuple[Node, float, int, int, int, torch.dtype]", node.args)
        whole = torch.iinfo(dtype)
        if low <= whole.min + 1 and high == whole.max:
            continue
        with graph.inserting_before(node):
            ends = ((low - zero) * scale, (high - zero) * scale)
            clipped = graph.call_function(torch.ops.aten.clamp.default, (source, *ends))
        clipped.meta.update(val=source.meta.get("val"), layer=f"{model.layer(node)}.clip")
        node.replace_input_with(source, clipped)


def settle_biases(model: Model) -> Model:
    """Move the biases of quantized layers to the integers that runtimes add (in place); returns the Model.

    Kernels add a bias to their int32 accumulator, in units of scale(input) · scale(weight): only so does the Model
    compute what the file will. A bias that several layers share stays as it is.
    """
    for node in model.nodes:
        unit = bias_unit(model, node)
        if unit is not None:
            value = model.tensor(cast("Node", node.args[2]))
            with torch.no_grad():
                value.copy_(settled_bias(value, unit))
    return model


def bias_unit(model: Model, layer: Node) -> Tensor | None:
    """The unit of a quantized layer's int32 accumulator, float64 [channels] or [1]; None where its bias is added in
    float, is shared, or is not there."""
    if kind(layer) != "contraction" or len(layer.args) < 3:
        return None
    data, weight, bias = layer.args[:3]
    if not (isinstance(data, Node) and isinstance(weight, Node) and isinstance(bias, Node)):
        return None
    if (packet(data), packet(weight)) != ("dequantize_per_tensor", "dequantize_per_channel"):
        return None
    step, scales = data.args[1], weight.args[1]
    if isinstance(step, Node) or not isinstance(scales, Node):
        return None  # a range taken at run time: the bias is added in float
    if bias.op != "get_attr" or len(bias.users) > 1:
        return None
    return cast("float", step) * model.tensor(scales).double()


def settled_bias(bias: Tensor, unit: Tensor) -> Tensor:
    """The bias [channels] as the nearest multiple of the accumulator's unit (> 0, [channels] or [1])."""
    return ((bias.double() / unit).round() * unit).to(bias.dtype)

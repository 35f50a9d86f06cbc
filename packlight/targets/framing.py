"""A convolution that cuts one channel into frames, as one over many channels.

With s the stride, and the length and the kernel multiples of it,

    y[o, t] = Σ_k w[o, 0, k] · x[0, s·t + k] = Σ_a Σ_r w'[o, r, a] · x'[r, t + a],   w'[o, r, a] = w[o, 0, s·a + r],
    x'[r, t] = x[0, s·t + r]

which is exact. Kernels work on blocks of channels: the left side, a filter bank over a waveform, was seen to
take most of a small speech network's time on LiteRT, and to be 3 times slower in int8 than in float.
"""

from __future__ import annotations

from typing import cast

import torch
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import argument, packet

_LEAST_STRIDE = 4


def frame_convolutions(model: Model) -> None:
    """Rewrite such convolutions, in place, whose weights are constants, or integers behind a dequantize."""
    aten, graph = torch.ops.aten, model.graph_module.graph
    for node in model.nodes:
        weight = _weight(model, node)
        if weight is None:
            continue
        data, stride = cast("Node", node.args[0]), argument(node, "stride")[0]
        outputs, _, width = model.tensor(weight).shape
        length = data.meta["val"].shape[2]
        values = model.tensor(weight).detach().reshape(outputs, width // stride, stride).transpose(1, 2).contiguous()
        model.set_tensor(str(weight.target), values)
        for holder in (weight, cast("Node", node.args[1])):
            holder.meta["val"] = torch.empty(values.shape, dtype=holder.meta["val"].dtype, device="meta")
        with graph.inserting_before(node):
            frames = graph.call_function(aten.unflatten.int, (data, 2, [length // stride, stride]))
            frames = graph.call_function(aten.squeeze.dim, (frames, 1))
            frames = graph.call_function(aten.transpose.int, (frames, 1, 2))
        node.args = (frames, *node.args[1:3], [1])
    model.graph_module.recompile()


def _weight(model: Model, node: Node) -> Node | None:
    """The constant of a convolution's weight where it can be rewritten."""
    if packet(node) != "conv1d" or not isinstance(node.args[0], Node) or not isinstance(node.args[1], Node):
        return None
    weight = node.args[1]
    if packet(weight) == "dequantize_per_channel" and weight.args[3] == 0 and len(weight.users) == 1:
        weight = cast("Node", weight.args[0])
    if weight.op != "get_attr" or len(weight.users) > 1 or model.tensor(weight).shape[1] != 1:
        return None
    plain = argument(node, "padding") in ([0], (0,)) and argument(node, "dilation") in ([1], (1,))
    stride, length = argument(node, "stride")[0], node.args[0].meta["val"].shape[2]
    if not plain or argument(node, "groups") != 1 or stride < _LEAST_STRIDE or not isinstance(length, int):
        return None
    return weight if length % stride == 0 and model.tensor(weight).shape[2] % stride == 0 else None

"""A Model in the operators that pnnx and ncnn have, each change in place and without effect on what is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import argument, packet


def fit(model: Model) -> list[int]:
    """Make all changes. The numbers of the inputs that are floats now."""
    floats = _take_as_floats(model)
    _open_attention(model)
    model.tidy()
    _hold_lstms(model)
    return floats


def _take_as_floats(model: Model) -> list[int]:
    """Leave out casts of inputs to float32 where nothing reads such an input as it is: ncnn has no layer for them."""
    found = []
    for i, node in enumerate(n for n in model.nodes if n.op == "placeholder"):
        casts = [n for n in node.users if packet(n) == "to" and n.meta["val"].dtype is torch.float32]
        if not casts or len(casts) < len(node.users):
            continue
        found.append(i)
        for cast_ in casts:
            cast_.replace_all_uses_with(node)
    return found


def _open_attention(model: Model) -> None:
    """Attention whose mask is one row for all queries, as products and a softmax: ncnn's layer reads that mask as if it
    had a row for each, past its end."""
    graph, aten = model.graph_module.graph, torch.ops.aten
    for node in model.nodes:
        if packet(node) != "scaled_dot_product_attention":
            continue
        query, key, value = (cast("Node", a) for a in node.args[:3])
        mask = argument(node, "attn_mask")
        if not isinstance(mask, Node) or mask.meta["val"].shape[-2] == query.meta["val"].shape[-2]:
            continue
        if mask.meta["val"].dtype is torch.bool or argument(node, "enable_gqa"):
            continue
        scale = argument(node, "scale") or 1 / math.sqrt(query.meta["val"].shape[-1])
        with graph.inserting_before(node):
            turned = graph.call_function(aten.transpose.int, (key, -2, -1))
            scores = graph.call_function(aten.matmul.default, (query, turned))
            scaled = graph.call_function(aten.mul.Tensor, (scores, scale))
            masked = graph.call_function(aten.add.Tensor, (scaled, mask))
            shares = graph.call_function(aten.softmax.int, (masked, -1))
            mixed = graph.call_function(aten.matmul.default, (shares, value))
        node.replace_all_uses_with(mixed)


def _hold_lstms(model: Model) -> None:
    """LSTMs that start at zero as torch's modules, which pnnx knows; the operator it does not."""
    module, graph = model.graph_module, model.graph_module.graph
    for i, node in enumerate(model.nodes):
        if packet(node) != "lstm" or not _starts_at_zero(node):
            continue
        data, _, weights, biases, layers, _, _, both, batch_first = cast("Sequence[Any]", node.args)
        held = _lstm([model.tensor(w) for w in weights], layers, biases, both, batch_first)
        name = f"lstm_of_node_{i}"
        module.add_submodule(name, held)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_module(name, (data,)))
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()


def _starts_at_zero(node: Node) -> bool:
    """Whether its states start as zeros, and only its outputs are read."""
    states = cast("Sequence[Node]", node.args[1])
    return all(packet(s) == "zeros" for s in states) and {n.args[1] for n in node.users} <= {0}


def _lstm(weights: Sequence[Tensor], layers: int, biases: bool, both: bool, batch_first: bool) -> nn.LSTM:
    """A module with these weights, in the operator's order."""
    inputs, width = weights[0].shape[1], weights[1].shape[1]
    held = nn.LSTM(inputs, width, layers, bias=biases, batch_first=batch_first, bidirectional=both)
    with torch.no_grad():
        for mine, given in zip(held.parameters(), weights, strict=True):
            mine.copy_(given)
    return held.eval()

"""Turn quantized weights from float masters into the integers that a runtime stores."""

from __future__ import annotations

import torch
from torch.fx import Node

from packlight.model.model import Model
from packlight.model.operators import load_quantized_operators, packet


def freeze(model: Model) -> Model:
    """A copy whose quantized weights are integer buffers under their dequantize, masters dropped; same outputs."""
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
    return model.tidy()

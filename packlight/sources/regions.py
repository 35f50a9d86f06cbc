"""Dissolve `with torch.no_grad()` and `with torch.autocast()` regions of an exported graph into it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from packlight.errors import PacklightError

_GRADIENTS, _AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"


def inline_regions(module: GraphModule) -> list[str]:
    """Replace every region by the operators inside it (in place); notes on what that changes.

    What leaves a region without gradients is detached, as it was; its nodes carry `meta["no_grad"]`. Autocast is not
    kept: the Model computes in the precision of its tensors, and the note says so.
    """
    notes = []
    while (region := next((n for n in module.graph.nodes if _name(n) in (_GRADIENTS, _AUTOCAST)), None)) is not None:
        if _name(region) == _AUTOCAST and region.args[2]:
            notes.append(f"an autocast region ({region.args[1]}) is computed in full precision")
        _inline(module, region)
    left = next((n for n in module.graph.nodes if isinstance(n.target, torch._ops.HigherOrderOperator)), None)
    if left is not None:
        raise PacklightError(f"the network uses torch's {_name(left)!r}, which packlight cannot capture")
    return list(dict.fromkeys(notes))


def _name(node: Node) -> str:
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def _inline(module: GraphModule, region: Node) -> None:
    position = 1 if _name(region) == _GRADIENTS else 4
    body, *operands = region.args[position:]
    assert isinstance(body, Node)
    inner: GraphModule = operator.attrgetter(str(body.target))(module)
    detached = _name(region) == _GRADIENTS and not region.args[0]
    values: dict[Node, Node] = dict(zip((n for n in inner.graph.nodes if n.op == "placeholder"), operands, strict=True))  # type: ignore[arg-type]
    with module.graph.inserting_before(region):
        for node in inner.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            values[node] = module.graph.node_copy(node, lambda n: values[n])
            values[node].meta["no_grad"] = detached or region.meta.get("no_grad", False)
            if node.op == "get_attr":
                values[node].target = f"{body.target}.{node.target}"
        inside: Any = inner.graph.output_node().args[0]
        results = [values[r] for r in inside]
        if detached:
            results = [_detached(module, r) for r in results]
    for user in list(region.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        module.graph.erase_node(user)
    module.graph.erase_node(region)
    if not body.users:
        module.graph.erase_node(body)


def _detached(module: GraphModule, node: Node) -> Node:
    new = module.graph.call_function(torch.ops.aten.detach.default, (node,))
    new.meta = {**node.meta, "val": node.meta["val"].detach()} if isinstance(node.meta.get("val"), torch.Tensor) else {}
    return new if new.meta else node

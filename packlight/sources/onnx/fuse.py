"""What exporters write as many small operators → one operator again, in place: GELU, SiLU, layer norm, group norm.

GELU(x) = x · (1 + erf(x / √2)) / 2        SiLU(x) = x · sigmoid(x)
layer norm(x) = (x − mean(x)) / √(mean((x − mean(x))²) + ε) · γ + β, over the last axis
group norm(x) = instance norm(x as [n, groups, …]) as x was, · γ + β
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from packlight.model.model import Model
from packlight.model.naming import owner_of
from packlight.model.operators import packet

aten = torch.ops.aten
_ROOT = math.sqrt(2)


def fuse(model: Model) -> Model:
    """Replace every match; the new operator bears the name of the last one that it replaces."""
    finders: dict[str, tuple[Callable[[Node], Any], ...]] = {
        **_FINDERS, "add": (*_FINDERS["add"], partial(_group_norm, model))
    }  # fmt: skip
    for node in model.nodes:
        for find in finders.get(packet(node), ()):
            found = find(node)
            if found is not None:
                _replace(model, node, *found)
                break
    return model


def _replace(model: Model, old: Node, target: Any, args: tuple[Any, ...]) -> None:
    with model.graph_module.graph.inserting_before(old):
        new = model.graph_module.graph.call_function(target, args)
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    model.graph_module.graph.erase_node(old)


def _number(node: Any, *values: float) -> bool:
    return isinstance(node, int | float) and any(math.isclose(node, v, rel_tol=1e-4) for v in values)


def _split(node: Any, name: str) -> tuple[Any, Any] | None:
    """The operands of a node of this kind that only one other reads."""
    if isinstance(node, Node) and packet(node) == name and len(node.users) == 1 and len(node.args) == 2:
        return node.args[0], node.args[1]
    return None


def _either(pair: Any, match: Callable[[Any, Any], Any]) -> Any:
    a, b = pair
    return match(a, b) or match(b, a)


def _scaled(node: Any, factor: float) -> Any:
    """x of x · factor or x / (1 / factor)."""
    for name, value in (("mul", factor), ("div", 1 / factor)):
        parts = _split(node, name)
        if parts and _number(parts[1], value):
            return parts[0]
    return None


def _erf_plus_one(node: Any) -> Any:
    """x of 1 + erf(x / √2)."""
    parts = _split(node, "add")
    inner = parts[0] if parts and _number(parts[1], 1.0) else None
    if not (isinstance(inner, Node) and packet(inner) == "erf" and len(inner.users) == 1):
        return None
    return _scaled(inner.args[0], 1 / _ROOT)


def _gelu(node: Node) -> Any:
    """x · (1 + erf) · ½ in any order of the three factors."""
    factors = _factors(node)
    halves = [f for f in factors if _number(f, 0.5)]
    gates = [(f, x) for f in factors if (x := _erf_plus_one(f)) is not None]
    if len(factors) != 3 or len(halves) != 1 or len(gates) != 1:
        return None
    x = next(f for f in factors if f is not halves[0] and f is not gates[0][0])
    return (aten.gelu.default, (x,)) if x is gates[0][1] else None


def _factors(node: Node) -> list[Any]:
    """Of a product of two or three factors."""
    found: list[Any] = []
    for operand in node.args:
        inner = _split(operand, "mul")
        halved = _split(operand, "div")
        if inner:
            found += inner
        elif halved and _number(halved[1], 2.0):
            found += [halved[0], 0.5]
        else:
            found.append(operand)
    return found


def _silu(node: Node) -> Any:
    def match(x: Any, gate: Any) -> Any:
        good = isinstance(gate, Node) and packet(gate) == "sigmoid" and len(gate.users) == 1 and gate.args[0] is x
        return (aten.silu.default, (x,)) if good else None

    return _either(node.args[:2], match)


def _centred(node: Any) -> Any:
    """x of x − mean(x) over the last axis."""
    if not (isinstance(node, Node) and packet(node) == "sub" and len(node.args) == 2):
        return None
    x, mean = node.args
    return x if isinstance(mean, Node) and _over_last(mean) and mean.args[0] is x else None


def _over_last(mean: Node) -> bool:
    if packet(mean) != "mean" or len(mean.args) != 3 or not mean.args[2]:
        return False
    source: Any = mean.args[0]
    return mean.args[1] in ([-1], [source.meta["val"].dim() - 1])


def _standardised(node: Any) -> Any:
    """(x, ε) of (x − mean) / √(mean((x − mean)²) + ε)."""
    if not (isinstance(node, Node) and packet(node) == "div" and len(node.args) == 2):
        return None
    off, root = node.args
    x = _centred(off)
    inside = root.args[0] if isinstance(root, Node) and packet(root) == "sqrt" else None
    parts = _split(inside, "add")
    if x is None or parts is None or not isinstance(parts[1], float):
        return None
    var = parts[0]
    square = var.args[0] if isinstance(var, Node) and _over_last(var) else None
    if not isinstance(square, Node) or _centred(square.args[0] if square.args else None) is not x:
        return None
    squared = packet(square) == "pow" and _number(square.args[1], 2.0)
    return (x, parts[1]) if squared or (packet(square) == "mul" and square.args[0] is square.args[1]) else None


def _layer_norm(node: Node) -> Any:
    """With scale and shift, which are parameters of the last axis's size."""

    def shifted(product: Any, shift: Any) -> Any:
        parts = _split(product, "mul")
        return _either(parts, lambda row, scale: _norm(row, scale, shift)) if parts else None

    return _either(node.args[:2], shifted)


def _norm(row: Any, scale: Any, shift: Any) -> Any:
    found = _standardised(row)
    if found is None or len(row.users) != 1:
        return None
    x, eps = found
    width = int(x.meta["val"].shape[-1])
    plain = all(isinstance(t, Node) and t.op == "get_attr" and t.meta["val"].shape == (width,) for t in (scale, shift))
    return (aten.layer_norm.default, (x, [width], scale, shift, eps, False)) if plain else None


def _group_norm(model: Model, node: Node) -> Any:
    """With scale and shift of [channels, 1, …], which become parameters [channels]."""

    def shifted(product: Any, shift: Any) -> Any:
        parts = _split(product, "mul")
        return _either(parts, lambda rows, scale: _of_groups(model, node, rows, scale, shift)) if parts else None

    return _either(node.args[:2], shifted)


def _of_groups(model: Model, node: Node, rows: Any, scale: Any, shift: Any) -> Any:
    back = _split(rows, "reshape")
    normed = back[0] if back else None
    if not isinstance(normed, Node) or packet(normed) != "instance_norm" or len(normed.users) != 1:
        return None
    parts = _split(normed.args[0], "reshape")
    if parts is None or not isinstance(parts[0], Node) or not isinstance(parts[1], list | tuple):
        return None
    x, sizes = parts
    whole = x.meta["val"].shape
    channels = int(whole[1])
    broadcast = (channels, *[1] * (len(whole) - 2))
    settled = all(isinstance(t, Node) and t.op == "get_attr" for t in (scale, shift, *normed.args[1:3]))
    same = [int(s) for s in node.meta["val"].shape[1:]] == [int(s) for s in whole[1:]]
    if not settled or not same or len(sizes) != 3 or not isinstance(sizes[1], int) or normed.args[3] is not None:
        return None
    values = [model.tensor(t).detach() for t in (scale, shift, *normed.args[1:3])]
    if any(tuple(v.shape[-len(broadcast) :]) != broadcast or v.numel() != channels for v in values[:2]):
        return None
    if not bool((values[2] == 1).all()) or bool(values[3].any()):
        return None
    given, owner = [], re.sub(r"[^\w.-]", "_", owner_of(node)) or "norm"
    for suffix, value in zip(("weight", "bias"), values[:2], strict=True):
        name = f"{owner}.{suffix}"
        while name in model.named_tensors():
            name += "_"
        model.set_tensor(name, value.reshape(-1).clone(), trainable=True)
        with model.graph_module.graph.inserting_before(node):
            constant = model.graph_module.graph.get_attr(name)
        constant.meta["val"] = torch.empty(channels, device="meta", dtype=value.dtype)
        given.append(constant)
    return aten.group_norm.default, (x, sizes[1], *given, normed.args[7], False)


_FINDERS: dict[str, tuple[Callable[[Node], Any], ...]] = {"mul": (_gelu, _silu), "add": (_layer_norm,)}

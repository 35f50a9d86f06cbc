"""A quantized Model in the terms of one target: the last step before its file is written.

Scales are real numbers that every runtime can have. What differs is made fit here without a change of what is
computed: integers of activations signed or not (q and zero point move by 128 together). What a target has no
low-precision kernel for is computed in float there: its weights become the float values that their integers stand for,
and pairs around activations that no low-precision kernel reads or writes are left out. Nothing is ever added, and what
was dropped is listed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.codebooks import lookups
from packlight.model.floats import narrowed
from packlight.model.numerics import Numerics
from packlight.model.operators import argument, load_quantized_operators, packet

_SHIFT = 128
_CONSTANT_PAIR = "dequantize_per_channel"


def adapted(model: Model, numerics: Numerics) -> tuple[Model, list[str]]:
    """The Model as a target with these numerics computes it, and what was dropped. The Model itself where nothing is to
    be changed. Raises PacklightError where its zero points have no place in the target's symmetric activations."""
    dropped, foreign = _foreign(model, numerics)
    pairs = _needless(model, numerics)
    other_sign = _of_other_sign(model, numerics)
    if not (foreign or pairs or other_sign):
        return model, []
    load_quantized_operators()
    model = model.copy()
    here = {node.name: node for node in model.nodes}
    for node in foreign:
        _settle(model, here[node.name])
    for node in pairs:
        here[node.name].replace_all_uses_with(cast("Node", cast("Node", here[node.name].args[0]).args[0]))
    for node in other_sign:
        _change_sign(here[node.name])
    told = [f"{layer} runs in float: {why}" for layer, why in dropped.items()]
    if pairs:
        told.append(f"{len(pairs)} activations that no low-precision kernel reads or writes here stay in float")
    return model.tidy(), told


def give_each_reader_its_own(model: Model) -> None:
    """A dequantize of an activation for every reader of it, in place. Converters that fuse it with its reader lose
    track where two share one: of a circle between two parts, or of the order of axes."""
    graph = model.graph_module.graph
    for node in model.nodes:
        if packet(node) == "dequantize_per_tensor":
            for reader in list(node.users)[1:]:
                with graph.inserting_after(node):
                    own = graph.node_copy(node)
                reader.replace_input_with(node, own)
    model.graph_module.recompile()


def _foreign(model: Model, numerics: Numerics) -> tuple[dict[str, str], list[Node]]:
    """Weights in a form that the target has no kernel for: layer → why, and the nodes that give them."""
    told: dict[str, str] = {}
    found: list[Node] = []
    for node in model.nodes:
        if not packet(node).startswith(_CONSTANT_PAIR) or not node.users:
            continue
        reader = next(iter(node.users))
        if why := _no_kernel(node, reader, numerics):
            found.append(node)
            told[model.layer(reader)] = why
    stored = {f.name for f in numerics.floats}
    for node, low in narrowed(model).items():
        name = next((f.name for f in numerics.floats if f.dtype == low.dtype), "")
        if name not in stored:
            found.append(node)
            told[model.layer(node)] = f"the target's files hold no {str(low.dtype).removeprefix('torch.')}"
    if not numerics.tables:
        for node in lookups(model):
            found.append(node)
            told[model.layer(node)] = "the target's files hold no tables of weights"
    return told, found


def _no_kernel(dequantize: Node, reader: Node, numerics: Numerics) -> str:
    """Why the reader of a quantized weight cannot have it, "" where it can."""
    operator, group = packet(reader), numerics.group(packet(reader))
    if packet(dequantize).endswith("_group"):
        block = int(argument(dequantize, "group_size"))
        if operator in numerics.blocked and block in (*numerics.blocks, dequantize.meta["val"].shape[-1]):
            return ""
        return f"the target has no {operator} with blocks of {block} weights"
    if operator in numerics.stored:
        return ""
    data = reader.args[0] if reader.args else None
    if group is not None and group.weighted and isinstance(data, Node):
        if packet(data) != "dequantize_per_tensor":
            return ""  # weights alone: the file stays small, and computes in float
        if not isinstance(data.args[1], Node) or operator in numerics.dynamic:
            return ""
        return f"the target takes no range at run time for {operator}"
    return f"the target has no low-precision {operator}"


def _needless(model: Model, numerics: Numerics) -> list[Node]:
    """Dequantize nodes of activations, graph order, whose pair no kernel of the target reads or writes."""
    pairs = [n for n in model.nodes if packet(n) == "dequantize_per_tensor"]
    values = {n: cast("Node", cast("Node", n.args[0]).args[0]) for n in pairs}
    behind = {value: pair for pair, value in values.items()}
    written: set[Node] = set()
    for pair in pairs:
        value = values[pair]
        first = value
        while not _is_kernel(first, numerics) and len(first.all_input_nodes) == 1 and first.op == "call_function":
            (source,) = first.all_input_nodes
            if not any(packet(first) in g.followers for g in numerics.groups if packet(source) in g.operators):
                break
            first = source
        fed = packet(value) in numerics.transparent and any(n in written for n in value.all_input_nodes)
        if fed or _is_kernel(first, numerics):
            written.add(pair)
    read: set[Node] = set()
    for pair in reversed(pairs):
        for user in pair.users:
            handed_on = packet(user) in numerics.transparent and behind.get(user) in (written | read)
            if handed_on or _is_kernel(user, numerics):
                read.add(pair)
    beside = {pair: [n for n in (values[pair], *pair.users) if n.op == "call_function"] for pair in pairs}
    return [pair for pair in pairs if beside[pair] and pair not in written and pair not in read]


def _is_kernel(node: Node, numerics: Numerics) -> bool:
    """Whether the target computes this operator in low precision, as it stands here."""
    group = numerics.group(packet(node)) if node.op == "call_function" else None
    if group is None:
        return False
    read = node.args[:2] if group.weighted else node.all_input_nodes
    if not all(isinstance(n, Node) and packet(n).startswith("dequantize_per") for n in read):
        return False
    data: Any = read[0]
    return not isinstance(data.args[1], Node) or packet(node) in numerics.dynamic


def _of_other_sign(model: Model, numerics: Numerics) -> list[Node]:
    """Operators of activations whose integers are signed where the target's are not, or the other way round."""
    wanted = torch.int8 if numerics.activation.signed else torch.uint8
    found = []
    for node in model.nodes:
        if packet(node) not in ("quantize_per_tensor", "dequantize_per_tensor", "choose_qparams"):
            continue
        if numerics.groups and numerics.activation.symmetric and node.args[2] not in (0, _SHIFT):
            raise PacklightError(
                f"{model.layer(node)} has a zero point, the target's activations have none; quantize the float network "
                "for this target, or for a set of targets with this one in it"
            )
        if node.args[-1] is not wanted:
            found.append(node)
    return found


def _change_sign(node: Node) -> None:
    """uint8 ↔ int8: the same real values, integers and zero point moved by 128."""
    *start, dtype = node.args
    move, other = (_SHIFT, torch.uint8) if dtype is torch.int8 else (-_SHIFT, torch.int8)
    if packet(node) == "choose_qparams":
        value, low, high, epsilon = start
        node.args = (value, cast("int", low) + move, cast("int", high) + move, epsilon, other)
    else:
        value, scale, zero, low, high = start
        moved = zero if isinstance(zero, Node) else cast("int", zero) + move
        node.args = (value, scale, moved, cast("int", low) + move, cast("int", high) + move, other)
    seen = node.meta.get("val")
    if isinstance(seen, Tensor) and seen.dtype in (torch.uint8, torch.int8):
        node.meta["val"] = torch.empty(seen.shape, dtype=other, device="meta")


def _settle(model: Model, node: Node) -> None:
    """Put the float values that a weight stands for in its place."""
    with torch.no_grad():
        value = _value(model, node).detach().clone()
    name, number = f"{_master(node)}_float", Counter(model.named_tensors())
    while number[name]:
        name += "_"
    model.set_tensor(name, value)
    with model.graph_module.graph.inserting_before(node):
        constant = model.graph_module.graph.get_attr(name)
    constant.meta["val"] = torch.empty_like(value, device="meta")
    node.replace_all_uses_with(constant)


def _master(node: Node) -> str:
    """The name of the first constant that a weight is made of."""
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return str(node.target)


def _value(model: Model, node: Node) -> Tensor:
    """What a node gives that depends on constants alone."""
    if node.op == "get_attr":
        return model.tensor(node)
    args: Any = map_arg(node.args, lambda n: _value(model, n))
    kwargs: Any = map_arg(node.kwargs, lambda n: _value(model, n))
    return cast("Tensor", node.target(*args, **kwargs))  # type: ignore[operator]

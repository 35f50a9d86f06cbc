"""How weights that are looked up in a table stand in a graph, and what they take.

    index ─ to int32 (─ add start) ─ view ─┐
    table (─ pad) (─ view) ────────────────┴ index_select ─ view (─ mul scale) → weight

index: uint8, the weight's shape. table: float32 [entries] or [tables, entries], learned or fixed. start: int32, where
each output channel's table begins. pad: an entry 0 before the others, which training does not move. scale: float32, a
learned factor an output channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model.model import Model
from packlight.model.operators import packet
from packlight.model.shapes import shape_of

_CAST = (torch.int32,)
_VIEWS = ("view", "reshape")  # cutting channels makes the one the other
_CONSTANT = ("to", "add", *_VIEWS)  # what an index goes through


@dataclass(frozen=True)
class Codes:
    """A weight as numbers of table entries.

    index: uint8, the weight's shape, < entries. table: float32 [tables, entries], without the entry 0 where `zero`.
    learned: whether training may move the table. zero: whether index 0 means exactly 0. start: int32 that broadcasts
    to the weight, the first entry of its table, None where there is one table. scale: float32 that broadcasts to it.
    """

    index: Tensor
    table: Tensor
    learned: bool = True
    zero: bool = False
    start: Tensor | None = None
    scale: Tensor | None = None


@dataclass(frozen=True)
class Lookup:
    """A lookup in a graph. cast: the node that widens the index. counted: get_attr nodes of what training moves, table
    or scale. entries: of one table, the 0 included. nodes: the operators between these and the weight."""

    index: Node
    cast: Node
    counted: tuple[Node, ...]
    entries: int
    nodes: tuple[Node, ...]

    @property
    def bits(self) -> int:
        """Of one index, 1 to 8."""
        return max(1, (self.entries - 1).bit_length())


def insert_lookup(model: Model, weight: Node, codes: Codes, layer: str, table: str | None = None) -> None:
    """Have every reader of a weight (a get_attr node) read a lookup, in place. layer: that the lookup is named
    after. table: the name of a table that is in the Model already."""
    graph, aten, name = model.graph_module.graph, torch.ops.aten, str(weight.target)

    def constant(suffix: str, value: Tensor, trainable: bool = False) -> Node:
        model.set_tensor(f"{name}_{suffix}", value, trainable=trainable)
        return graph.get_attr(f"{name}_{suffix}")

    def call(operator: Any, *args: Any) -> Node:
        return graph.call_function(operator, args)

    with graph.inserting_before(weight):
        index = call(aten.to.dtype, constant("index", codes.index), torch.int32)
        if codes.start is not None:
            index = call(aten.add.Tensor, index, constant("start", codes.start))
        index = call(aten.view.default, index, [-1])
        flat = codes.table if len(codes.table) > 1 else codes.table[0]
        source = graph.get_attr(table) if table else constant("table", flat, codes.learned)
        if codes.zero:
            source = call(aten.constant_pad_nd.default, source, [1, 0], 0.0)
        if len(codes.table) > 1:
            source = call(aten.view.default, source, [-1])
        value = call(aten.view.default, call(aten.index_select.default, source, 0, index), list(codes.index.shape))
        if codes.scale is not None:
            value = call(aten.mul.Tensor, value, constant("scale", codes.scale, trainable=True))
    value.meta["layer"] = f"{layer}.{name.rpartition('.')[2]}.lookup"
    weight.replace_all_uses_with(value)
    graph.erase_node(weight)


def lookups(model: Model) -> dict[Node, Lookup]:
    """Every weight that is looked up: the node that gives it → how."""
    found = {node: lookup for node in model.nodes if (lookup := _lookup(model, node)) is not None}
    inner = {node for lookup in found.values() for node in lookup.nodes}
    return {node: lookup for node, lookup in found.items() if node not in inner}


def _lookup(model: Model, result: Node) -> Lookup | None:
    nodes: list[Node] = []
    counted: list[Node] = []
    node: Any = result
    if packet(node) == "mul" and _is_constant(node.args[1]):
        counted.append(node.args[1])
        node = node.args[0]
        nodes.append(node)
    pick: Any = node.args[0] if packet(node) in _VIEWS else None
    if not isinstance(pick, Node) or packet(pick) != "index_select" or pick.args[1] != 0:
        return None
    table: Any = pick.args[0]
    index: Any = pick.args[2]
    nodes.append(pick)
    while packet(index) in ("add", *_VIEWS) and isinstance(index.args[0], Node):
        nodes.append(index)
        index = index.args[0]
    padded = False
    while packet(table) in ("constant_pad_nd", *_VIEWS) and isinstance(table.args[0], Node):
        nodes.append(table)
        padded = padded or packet(table) == "constant_pad_nd"
        table = table.args[0]
    if packet(index) != "to" or tuple(index.args[1:]) != _CAST or not _is_constant(index.args[0]):
        return None
    if not _is_constant(table) or model.tensor(index.args[0]).dtype != torch.uint8:
        return None
    learned = {n for n, _ in model.named_parameters()}
    counted += [table] if str(table.target) in learned else []
    return Lookup(index.args[0], index, tuple(counted), model.tensor(table).shape[-1] + padded, (*nodes, index))


def _is_constant(value: Any) -> bool:
    return isinstance(value, Node) and value.op == "get_attr"


def check_lookups(model: Model) -> None:
    """Raise PacklightError where a constant index leaves the table that it is meant for. For a Model whose shapes were
    propagated."""
    for node in model.nodes:
        if packet(node) != "index_select" or not isinstance(node.args[2], Node):
            continue
        index = _value(model, node.args[2])
        if index is None or not index.numel():
            continue
        table, axis = shape_of(node.args[0]), int(node.args[1])  # type: ignore[arg-type]
        entries = table[axis] if table else 1
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= entries:
            name = next(str(n.target) for n in _constants(node.args[2]))
            raise PacklightError(
                f"{name!r} holds {high if low >= 0 else low}, its table has entries 0 to {entries - 1}"
            )


def _value(model: Model, node: Node) -> Tensor | None:
    """What a node computes from constants alone, None for others."""
    if node.op == "get_attr":
        return model.tensor(node)
    if packet(node) not in _CONSTANT or node.kwargs:
        return None
    args = [_value(model, a) if isinstance(a, Node) else a for a in node.args]
    return None if any(a is None for a in args) else node.target(*args)  # type: ignore[operator]


def _constants(node: Node) -> Iterator[Node]:
    if node.op == "get_attr":
        yield node
    for source in node.all_input_nodes:
        yield from _constants(source)

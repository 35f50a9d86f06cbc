"""A quantized graph and its float twin, run side by side block by block over calibration data.

A block is a stretch of the graph that one value leaves: a residual block, a pair of feed-forward layers. Its boundaries
are found, not named: places where all that later operators read of what layers computed is one value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from packlight.model import Model
from packlight.model.operators import kind, packet

Batch = tuple[Tensor, ...]
Replaced = Callable[[Node, dict[Node, Any]], Any]


@dataclass(frozen=True)
class Block:
    """A stretch of a quantized graph. nodes: in order. inputs: values from before it that it reads. output: the value
    that it is for. weights: the dequantize nodes of its layers' weights; tables that are looked up are none."""

    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    output: Node
    weights: tuple[Node, ...]


def blocks(model: Model, *, layers: bool = False) -> list[Block]:
    """The blocks of a quantized Model that have weights, in graph order. layers: every layer with what is fused to it
    (activations that follow it up to where it is quantized) by itself."""
    nodes = list(model.nodes)
    weights = {n for n in nodes if is_weight(n) and all(kind(u) == "contraction" for u in n.users)}
    ends = _after_layers(nodes, weights) if layers else _joints(nodes, weights)
    found = []
    start = 0
    for end in ends:
        stretch = tuple(n for n in nodes[start : end + 1] if n.op == "call_function")
        own = tuple(n for n in stretch if n in weights)
        if own:
            inside = set(stretch)
            given = dict.fromkeys(i for n in stretch for i in n.all_input_nodes if i not in inside)
            found.append(Block(stretch, tuple(i for i in given if i.op != "get_attr"), nodes[end], own))
            start = end + 1
    return found


def is_weight(node: Node) -> bool:
    """Whether a node is the dequantize of a stored weight."""
    source = node.args[0] if node.args else None
    if not packet(node).startswith("dequantize_per_") or not isinstance(source, Node):
        return False
    return source.op == "get_attr" or bool(source.args and isinstance(source.args[0], Node)
                                           and source.args[0].op == "get_attr")  # fmt: skip


def _joints(nodes: Sequence[Node], weights: set[Node]) -> list[int]:
    """Positions after which one value is all that is left of what layers computed, and it is not being quantized."""
    place = {n: i for i, n in enumerate(nodes)}
    heavy: set[Node] = set()
    for node in nodes:
        if kind(node) in ("contraction", "rnn") or any(i in heavy for i in node.all_input_nodes):
            heavy.add(node)
    last = {n: max((place[u] for u in n.users), default=place[n]) for n in nodes}
    found = []
    alive: set[Node] = set()
    for i, node in enumerate(nodes):
        alive = {n for n in alive if last[n] > i}
        if node in heavy and last[node] > i:
            alive.add(node)
        ends = len(node.users) > 1 or all(kind(u) == "quantize" or u.op == "output" for u in node.users)
        if ends and alive == {node} and kind(node) != "quantize" and isinstance(node.meta.get("val"), Tensor):
            found.append(i)
    return found


def _after_layers(nodes: Sequence[Node], weights: set[Node]) -> list[int]:
    """Positions of the layers' last operators: while one operator alone reads the value, and it has one input."""
    place = {n: i for i, n in enumerate(nodes)}
    found = []
    for weight in weights:
        (node, *_) = weight.users
        while len(node.users) == 1:
            (user,) = node.users
            if kind(user) in ("quantize", "contraction") or user.op == "output" or len(user.all_input_nodes) > 1:
                break
            node = user
        found.append(place[node])
    return sorted(set(found))


class Walker:
    """Runs a graph up to where it is told to, on every batch, and remembers only what is still needed."""

    def __init__(self, model: Model, batches: Sequence[Batch]):
        self.model = model
        self.runs = [Interpreter(model.graph_module) for _ in batches]
        for run, batch in zip(self.runs, batches, strict=True):
            run.args_iter = iter(batch)
        self.done, self.size = 0, len(batches[0][0])
        self.nodes = list(model.nodes)
        place = {n: i for i, n in enumerate(self.nodes)}
        self.last = {n: max((place[u] for u in n.users), default=place[n]) for n in self.nodes}
        self.place = place

    def advance(self, node: Node) -> None:
        """Run every batch up to and including a node."""
        end = self.place[node] + 1
        with torch.no_grad():
            for run in self.runs:
                for n in self.nodes[self.done : end]:
                    run.env[n] = run.run_node(n)
        self.done = max(self.done, end)

    def forget(self) -> None:
        """Drop what nothing reads from here on."""
        for run in self.runs:
            for n in [n for n in run.env if self.last[n] < self.done]:
                del run.env[n]

    def ahead(self, node: Node, change: Callable[[Any], Any], end: Node) -> list[Any]:
        """What a later node's value would be for each batch, were this one's changed; the walk stays where it is."""
        found = []
        with torch.no_grad():
            for run in self.runs:
                kept = run.env
                run.env = changed = {**kept, node: change(kept[node])}
                moved = {node}
                for n in self.nodes[self.place[node] + 1 : self.place[end] + 1]:
                    if moved.isdisjoint(n.all_input_nodes):
                        if n not in kept:
                            changed[n] = kept[n] = run.run_node(n)
                    else:
                        changed[n] = run.run_node(n)
                        moved.add(n)
                found.append(changed[end])
                run.env = kept
        return found

    def values(self, node: Node) -> list[Any]:
        """A node's value for each batch."""
        return [run.env[node] for run in self.runs]


def execute(block: Block, model: Model, given: dict[Node, Any], replaced: Replaced) -> Any:
    """The value of a block's output. given: values of its inputs. replaced: called with every node and the values so
    far; what it returns, unless None, is the node's value."""
    env = dict(given)

    def value_of(n: Node) -> Any:
        if n.op == "get_attr" and n not in env:
            env[n] = model.tensor(n)
        return env[n]

    for node in block.nodes:
        made = replaced(node, env)
        if made is None:
            args, kwargs = map_arg(node.args, value_of), map_arg(node.kwargs, value_of)
            made = node.target(*args, **kwargs)  # type: ignore[operator]
        env[node] = made
    return env[block.output]

"""Whole blocks: x + f(x) becomes x.

Blocks are ranked by how little they turn their input on data, 1 − cos(x, x + f(x)) (Men et al. 2024, arXiv 2403.03853,
section 3, "block influence").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from packlight.errors import PacklightError
from packlight.model import Model, Step
from packlight.model.operators import argument, packet
from packlight.model.shapes import propagate, shape_of


@dataclass(frozen=True)
class Block:
    """name: of the module that it is, or of its addition. total: the addition. skip: what passes it by. params: what
    only this block has."""

    name: str
    total: Node
    skip: Node
    params: int


def blocks(model: Model) -> list[Block]:
    """Residual blocks that could be left out, in graph order: additions of a value and of what is computed from it.
    Blocks inside other blocks count by themselves."""
    order = {n: i for i, n in enumerate(model.nodes)}
    found = []
    for node in order:
        if packet(node) != "add" or len(node.all_input_nodes) != 2 or argument(node, "alpha") != 1:
            continue
        skip, branch = sorted(node.all_input_nodes, key=order.__getitem__)
        if skip.op != "call_function" or shape_of(skip) != shape_of(branch):
            continue
        own = _own(branch, node, skip)
        params = sum(model.tensor(n).numel() for n in own if n.op == "get_attr")
        if params and _follows(branch, skip, order):
            found.append(Block(_name(model, own, node), node, skip, params))
    return found


def _own(branch: Node, total: Node, skip: Node) -> set[Node]:
    """The nodes that nothing but the branch uses."""
    own: set[Node] = set()
    waiting: dict[Node, int] = {}  # users that are not known to be the branch's own
    ends = [total]
    while ends:
        for node in ends.pop().all_input_nodes:
            waiting[node] = waiting.get(node, len(node.users)) - 1
            if waiting[node] == 0 and node is not skip:
                own.add(node)
                ends.append(node)
    return own


def _follows(branch: Node, skip: Node, order: Mapping[Node, int]) -> bool:
    """Whether a value is computed from another. Nothing that comes before that one is looked at."""
    seen, ahead = {branch}, [branch]
    while ahead:
        new = {n for n in ahead.pop().all_input_nodes if order[n] >= order[skip]} - seen
        if skip in new:
            return True
        seen |= new
        ahead.extend(new)
    return False


def _name(model: Model, own: set[Node], total: Node) -> str:
    """The longest name that all layers of the block begin with."""
    names = [model.layer(n).split(".") for n in own if n.op == "call_function"]
    common = []
    for parts in zip(*names, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) or model.layer(total)


class _Influence(Interpreter):
    """Runs a graph and adds up 1 − cos of what goes into and comes out of each block, over samples."""

    def __init__(self, model: Model, found: Sequence[Block]):
        super().__init__(model.graph_module)
        self.of = {b.total: b for b in found}
        self.sums = dict.fromkeys((b.total for b in found), 0.0)

    def run_node(self, n: Node) -> Any:
        if n not in self.of:
            return super().run_node(n)
        before: Tensor = self.env[self.of[n].skip].clone()  # an addition may be done in place
        value = super().run_node(n)
        cosine = torch.nn.functional.cosine_similarity(before.flatten(1), value.flatten(1), dim=1)
        self.sums[n] += float((1 - cosine).sum())
        return value


def drop_blocks(model: Model, count: int, batches: Sequence[tuple[Tensor, ...]]) -> Model:
    """A copy of the Model, in eval mode, without the `count` residual blocks that change least on this data; after each
    that goes, the others are ranked anew. Raises PacklightError where there are not so many."""
    made = propagate(model.copy().eval())
    if count < 1 or not batches:
        raise PacklightError(f"leaving blocks out needs a count >= 1 and data, got {count} and {len(batches)} batches")
    dropped: list[str] = []
    for _ in range(count):
        found = blocks(made)
        if not found:
            raise PacklightError(
                f"{model.name} has {len(dropped)} residual blocks that can be left out, {count} were asked for"
            )
        with torch.no_grad():
            run = _Influence(made, found)
            for batch in batches:
                run.run(*batch)
        least = min(found, key=lambda b: run.sums[b.total])
        least.total.replace_all_uses_with(least.skip)
        dropped.append(least.name)
        made.tidy()
    return made.with_step(Step("drop_blocks", options={"blocks": dropped}))

"""Low-rank adapters: a frozen weight W is used as W + α/r · B A, and only A and B are trained.

Hu et al. 2021 (arXiv 2106.09685), section 4.1: A [r, inputs] random, B [outputs, r] zero, so that training starts from
the network as it is; merged at the end, so that inference costs nothing. A convolution's weight [outputs, inputs, …] is
taken as the matrix [outputs, inputs · …]. The paper adapts attention's projections only and draws A from a Gaussian;
here all linear and convolution weights are adapted, A is drawn from U(−1/√inputs, 1/√inputs), as the authors' code
does, and r is lowered where an adapter would hold more values than its weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.operators import argument, packet
from packlight.train.hooks import Hook

_ADAPTED = ("linear", "conv1d", "conv2d", "conv3d")
_ATEN = torch.ops.aten


@dataclass(frozen=True)
class Adapter:
    """weight: the tensor that is adapted, by name. shape: [outputs, inputs, …]. rank: >= 1."""

    weight: str
    shape: tuple[int, ...]
    rank: int

    @property
    def down(self) -> str:
        """The name of A [rank, inputs · …]."""
        return f"{self.weight}_adapter_a"

    @property
    def up(self) -> str:
        """The name of B [outputs, rank]."""
        return f"{self.weight}_adapter_b"

    @property
    def values(self) -> int:
        """How many A and B hold."""
        return self.rank * (self.shape[0] + math.prod(self.shape[1:]))


def adapters(model: Model, rank: int, but: Sequence[str] = ()) -> list[Adapter]:
    """An adapter for every linear and convolution weight that may be trained, in graph order. but: weights left out."""
    found: dict[int, Adapter] = {}  # by tensor: one may have several names
    for node in model.nodes:
        weight = argument(node, "weight") if packet(node) in _ADAPTED else None
        if not isinstance(weight, Node) or weight.op != "get_attr" or str(weight.target) in but:
            continue
        value = model.tensor(weight)
        if value.requires_grad:
            shape = tuple(value.shape)
            outputs, inputs = shape[0], math.prod(shape[1:])
            most = max(1, outputs * inputs // (outputs + inputs))
            found.setdefault(id(value), Adapter(str(weight.target), shape, min(rank, most)))
    if not found:
        raise PacklightError(
            f"{model.name} has no linear or convolution weight below its head to adapt; use mode extract"
        )
    return list(found.values())


def with_adapters(model: Model, wanted: Sequence[Adapter], alpha: float, seed: int) -> Model:
    """A copy of the Model that uses W + alpha/rank · B A for every W; its outputs are the same until B is trained."""
    made = model.copy()
    graph = made.graph_module.graph
    generator = torch.Generator().manual_seed(seed)
    tensors = made.named_tensors()
    for adapter in wanted:
        weight = tensors[adapter.weight]
        inputs = math.prod(adapter.shape[1:])
        drawn = (torch.rand(adapter.rank, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
        made.set_tensor(adapter.down, drawn.to(weight), trainable=True)
        made.set_tensor(adapter.up, weight.detach().new_zeros(adapter.shape[0], adapter.rank), trainable=True)
        for node in made.nodes:
            if node.op == "get_attr" and made.tensor(node) is weight:
                _use(graph, node, adapter, alpha)
    graph.lint()
    made.graph_module.recompile()
    return made


def _use(graph: Graph, weight: Node, adapter: Adapter, alpha: float) -> None:
    """Put weight + alpha/rank · B A in the place of a node that reads the weight."""
    users = list(weight.users)
    with graph.inserting_before(weight.next):
        up, down = graph.get_attr(adapter.up), graph.get_attr(adapter.down)
        delta = graph.call_function(_ATEN.mm.default, (up, down))
        shaped = graph.call_function(_ATEN.reshape.default, (delta, list(adapter.shape)))
        scaled = graph.call_function(_ATEN.mul.Tensor, (shaped, alpha / adapter.rank))
        adapted = graph.call_function(_ATEN.add.Tensor, (weight, scaled))
    for user in users:
        user.replace_input_with(weight, adapted)


def merge(model: Model, trained: Mapping[str, Tensor], wanted: Sequence[Adapter], alpha: float) -> Model:
    """Add alpha/rank · B A to the Model's weights (in place); returns it. trained: A and B by name."""
    tensors = model.named_tensors()
    with torch.no_grad():
        for adapter in wanted:
            delta = trained[adapter.up].double() @ trained[adapter.down].double()
            weight = tensors[adapter.weight]
            scaled = alpha / adapter.rank * delta.reshape(adapter.shape)
            weight.copy_((weight.double() + scaled).to(weight.dtype))
    return model


class Adapting(Hook):
    """Trains adapters and head alone. rate: factor on the adapters' learning rate, > 0."""

    def __init__(self, wanted: Sequence[Adapter], head: Sequence[str], rate: float, told: Mapping[str, Any]):
        self.factors = dict.fromkeys(head, 1.0) | {n: rate for a in wanted for n in (a.down, a.up)}
        self.told = dict(told)

    def rate(self, name: str, progress: float) -> float:
        return self.factors.get(name, 0.0)

    def options(self) -> dict[str, Any]:
        return self.told

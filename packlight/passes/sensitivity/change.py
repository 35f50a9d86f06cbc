"""How much a network's outputs change when the weight of one layer is replaced, the rest as it is.

Every batch runs once, with all values kept, and for each replacement again from the layer on: half of the work of
running it whole, for layers spread evenly over the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from packlight.model import Model
from packlight.passes.sensitivity.table import weight_of
from packlight.task import Task

Batch = tuple[Tensor, ...]
Outputs = Sequence[Tensor]
Weights = Mapping[Node, Mapping[Any, Callable[[], Tensor]]]  # layer → name → what makes its replacement


@dataclass(frozen=True)
class Distance:
    """How far outputs are from those wanted. between: summed over a batch. size: of what is wanted in a batch, that
    the sum is given as a share of."""

    what: str
    between: Callable[[Outputs, Outputs], float]
    size: Callable[[Outputs], float]


def _squared(found: Outputs, wanted: Outputs) -> float:
    pairs = zip(found, wanted, strict=True)
    return sum(float((a.double() - b.double()).square().sum()) for a, b in pairs if b.is_floating_point())


def _power(wanted: Outputs) -> float:
    return sum(float(y.double().square().sum()) for y in wanted if y.is_floating_point())


def _divergence(found: Outputs, wanted: Outputs) -> float:
    q, p = F.log_softmax(found[0].double(), 1), F.log_softmax(wanted[0].double(), 1)
    return float(torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum())


def _decisions(wanted: Outputs) -> float:
    return wanted[0].numel() / wanted[0].shape[1]


SQUARED = Distance("squared change of the outputs over their squared size", _squared, _power)
DIVERGENCE = Distance("divergence of the class probabilities (Kullback–Leibler, nats)", _divergence, _decisions)


def distance_for(task: Task, model: Model) -> Distance:
    """By class probabilities where the task is to choose among classes, scores [n, classes, …] first: a squared change
    of scores is mostly one of answers that are certain, and stay."""
    shape = model.outputs[0].shape if model.outputs else ()
    several = len(shape) >= 2 and not (isinstance(shape[1], int) and shape[1] < 2)
    chooses = task.loss == "cross_entropy" and task.measure_with.name != "mse"
    return DIVERGENCE if chooses and several and model.outputs[0].dtype.startswith("float") else SQUARED


class Changes:
    """Distances of a float Model's outputs, in eval mode, from those that it gives as it is, over batches."""

    def __init__(self, model: Model, batches: Sequence[Batch], distance: Distance = SQUARED):
        self.model, self.batches, self.distance = model, batches, distance
        with torch.no_grad():
            self.wanted = [model.flat(*batch) for batch in batches]
        self.size = sum(map(distance.size, self.wanted))

    @torch.no_grad()
    def whole(self, replaced: Mapping[Node, Tensor]) -> float:
        """The change where all of these layers have other weights at once."""
        held = {weight_of(layer): weight for layer, weight in replaced.items()}
        total = 0.0
        for batch, wanted in zip(self.batches, self.wanted, strict=True):
            env = _run(self.model, batch, held)
            total += self.distance.between(env[self.model.nodes[-1]], wanted)
        return self._share(total)

    @torch.no_grad()
    def single(self, weights: Weights, replaced: Mapping[Node, Tensor] | None = None) -> dict[Node, dict[Any, float]]:
        """The change for every replacement alone, beside those in `replaced`, which all trials have."""
        held = {weight_of(layer): weight for layer, weight in (replaced or {}).items()}
        found: dict[Node, dict[Any, float]] = {n: dict.fromkeys(named, 0.0) for n, named in weights.items()}
        after = {layer: _after(self.model, weight_of(layer)) for layer in weights}
        for batch, wanted in zip(self.batches, self.wanted, strict=True):
            env = _run(self.model, batch, held)
            for layer, named in weights.items():
                for name, make in named.items():
                    outputs = _rerun(self.model, env, {weight_of(layer): make()}, after[layer])
                    found[layer][name] += self.distance.between(outputs, wanted)
        return {n: {name: self._share(v) for name, v in named.items()} for n, named in found.items()}

    def _share(self, total: float) -> float:
        return total / self.size if self.size else total


def _run(model: Model, batch: Batch, held: Mapping[Node, Tensor]) -> dict[Node, Any]:
    env: dict[Node, Any] = {}
    inputs = iter(batch)
    for node in model.nodes:
        if node.op == "placeholder":
            env[node] = next(inputs)
        elif node.op == "get_attr":
            env[node] = held[node] if node in held else model.tensor(node)
        else:
            env[node] = _value(node, env)
    return env


def _rerun(model: Model, env: Mapping[Node, Any], held: Mapping[Node, Tensor], after: Sequence[Node]) -> Any:
    """The outputs with these tensors, the nodes `after` them run again."""
    now = {**env, **held}
    for node in after:
        now[node] = _value(node, now)
    return now[model.nodes[-1]]


def _value(node: Node, env: Mapping[Node, Any]) -> Any:
    args: Any = map_arg(node.args, env.__getitem__)
    named: Any = map_arg(node.kwargs, env.__getitem__)
    return args[0] if node.op == "output" else node.target(*args, **named)  # type: ignore[operator]


def _after(model: Model, source: Node) -> list[Node]:
    """All nodes that depend on one, in order."""
    reached = {source}
    for node in model.nodes:
        if any(n in reached for n in node.all_input_nodes):
            reached.add(node)
    return [n for n in model.nodes if n in reached and n is not source]

"""How much a unit matters: scores as plain functions, from weights alone or with data.

A score of a unit is a sum over all that would go with it: its slices of every parameter along every axis. Most scores
are sums of a number an element; `taylor` and `fisher` are squares of such sums over one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Interpreter, Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.operators import packet
from packlight.passes.gradients import Batches, Loss, gradients
from packlight.passes.prune.groups import Groups

Values = NDArray[np.float64]
_OF_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda w: w.abs(),
    "l2": lambda w: w.square(),
}
NEEDS_DATA = ("taylor", "fisher", "gradient", "sensitivity", "activation", "removal")
_ANSWERS = {
    "linear": -1,
    "conv1d": 1,
    "conv2d": 1,
    "conv3d": 1,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
}  # axis of the channels that a layer gives
NAMES = ("l1", "l2", "geometric_median", "random", *NEEDS_DATA)


@dataclass(frozen=True)
class Evidence:
    """What scores with data look at. batches: inputs and targets. loss: of flat outputs and targets."""

    batches: Batches
    loss: Loss


def class_scores(groups: Groups, score: str, evidence: Evidence | None = None, seed: int = 0) -> Values:
    """[classes]: a number >= 0 that says how much the network would lose without each; small ones go first.

    "l1", "l2": size of the weights (Li et al. 2017, arXiv 1608.08710, section 3). "geometric_median": distance of a
    weight's output slice to the others of its tensor (He et al. 2019, arXiv 1811.00250, section 3.2). "taylor": squared
    change of the loss to first order (Molchanov et al. 2019, arXiv 1906.10771, equation 8). "fisher": the same of every
    batch by itself, in the mean (Theis et al. 2018, arXiv 1801.05787, section 2). "gradient": |g|. "sensitivity":
    |w · g| (Lee et al. 2019, arXiv 1810.02340, section 4.1). "activation": mean size of what layers give (Hu et al.
    2016, arXiv 1607.03250, section 3, with the mean for the share of zeros). "removal": how much the loss rises when
    the weights of one alone are zero; a forward pass over the data for each, so slow. "random": a control.
    """
    model = groups.labelled.model
    if score not in NAMES:
        raise PacklightError(f"no score {score!r}; choose {', '.join(NAMES)}")
    if score == "random":
        return np.random.default_rng(seed).random(groups.count)
    if score in _OF_WEIGHTS:
        elements = {n: _OF_WEIGHTS[score](p.detach()) for n, p in model.named_parameters()}
        return groups.sums(elements)
    if score == "geometric_median":
        return groups.sums({n: _distances(p.detach()) for n, p in model.named_parameters()})
    if evidence is None:
        raise PacklightError(f"score {score!r} needs data; give a task with training data and a loss, or use l2")
    if score == "activation":
        return _activations(groups, model, evidence)
    if score == "removal":
        return _removals(groups, model, evidence)
    return _with_gradients(groups, model, score, evidence)


def _distances(weight: Tensor) -> Tensor:
    """[outputs, …]: for each output slice the mean distance to the others, spread over its elements."""
    if weight.dim() < 2:
        return torch.zeros_like(weight)
    flat = weight.flatten(1).double()
    each = torch.cdist(flat, flat).mean(1) / flat.shape[1]
    return each.reshape(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)


def _with_gradients(groups: Groups, model: Model, score: str, evidence: Evidence) -> Values:
    total: Values | None = None
    count = 0
    for found in gradients(model, evidence.batches, evidence.loss, f"score {score!r}"):
        mine = groups.sums({n: _ELEMENTS[score](w, g) for n, (w, g) in found.items()})
        mine = mine * mine if score == "fisher" else mine
        total = mine if total is None else total + mine
        count += 1
    assert total is not None
    mean = total / count
    return mean * mean if score == "taylor" else mean


_ELEMENTS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "taylor": lambda w, g: w * g, "fisher": lambda w, g: w * g, "gradient": lambda w, g: g.abs(),
    "sensitivity": lambda w, g: (w * g).abs(),
}  # fmt: skip


class _Sizes(Interpreter):
    """Runs a graph and adds up the mean size of what every channel of a layer holds."""

    def __init__(self, groups: Groups, total: Values):
        super().__init__(groups.labelled.model.graph_module)
        self.groups, self.total = groups, total

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if packet(n) in _ANSWERS:
            axis = self.groups.labelled.layouts[n][_ANSWERS[packet(n)]]
            if axis is not None and not axis.on:
                sizes = value.abs().movedim(_ANSWERS[packet(n)], -1).flatten(0, -2).mean(0, dtype=torch.float64)
                np.add.at(self.total, self.groups.classes[axis.labels], sizes.numpy())
        return value


def _activations(groups: Groups, model: Model, evidence: Evidence) -> Values:
    total = np.zeros(groups.count)
    with torch.no_grad():
        for inputs, _ in evidence.batches:
            _Sizes(groups, total).run(*inputs)
    return total


def _removals(groups: Groups, model: Model, evidence: Evidence) -> Values:
    batches = list(evidence.batches)
    if not batches or any(targets is None for _, targets in batches):
        raise PacklightError("score 'removal' needs data with targets; use l2, which needs no data")

    def loss() -> float:
        with torch.no_grad():
            return float(np.mean([float(evidence.loss(model.flat(*x), y)) for x, y in batches if y is not None]))

    tensors = dict(model.named_parameters())
    where: dict[int, list[tuple[str, int]]] = {}
    for (name, a), classes in groups.where.items():
        if name in tensors and classes.ndim == 1:
            for c in np.unique(classes).tolist():
                where.setdefault(c, []).append((name, a))
    before, total = loss(), np.zeros(groups.count)
    wanted = {c for family in groups.families for a in family.rows.ravel().tolist() for c in groups.members[a]}
    for c in sorted(wanted & set(where)):
        kept = []
        with torch.no_grad():
            for name, a in where[c]:
                index = torch.from_numpy(np.flatnonzero(groups.where[name, a] == c))
                kept.append((name, a, index, tensors[name].index_select(a, index).clone()))
            for name, a, index, _ in kept:
                tensors[name].index_fill_(a, index, 0.0)
            total[c] = max(0.0, loss() - before)
            for name, a, index, value in reversed(kept):
                tensors[name].index_copy_(a, index, value)
    return total

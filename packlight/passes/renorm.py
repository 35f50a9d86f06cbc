"""Batch norms whose statistics are those of given data.

A network whose running statistics are not those of its data (never updated, of another domain, or because layers
before were changed) computes one thing in eval mode and another in train mode. `rebase` keeps what it computes in eval
mode, `renorm` what it computes in train mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import argument, packet, set_argument
from packlight.passes.watch import Watch

Batches = Sequence[tuple[Tensor, ...]]


def renorm(model: Model, batches: Batches) -> Model:
    """A copy, in eval mode, with the statistics that batch norms show on this data: the mean over batches."""
    model = model.copy().eval()
    norms = [n for n in model.nodes if packet(n) == "batch_norm" and argument(n, "running_mean") is not None]
    usual = {n: argument(n, "momentum") for n in norms}
    with torch.no_grad():
        for i, batch in enumerate(batches if norms else ()):
            for n in norms:
                set_argument(n, "training", True)
                set_argument(n, "momentum", 1 / (i + 1))
            model.graph_module.recompile()
            model.flat(*batch)
    for n in norms:
        set_argument(n, "training", False)
        set_argument(n, "momentum", usual[n])
    model.graph_module.recompile()
    return model


def rebase(model: Model, batches: Batches) -> Model:
    """A copy, in eval mode, with the statistics of this data in batch norms and the same outputs to rounding: weight
    and bias take up the difference. Norms without both, or used more than once, stay as they are."""
    model = model.copy().eval()
    norms = {n: _Moments() for n in model.nodes if packet(n) == "batch_norm" and _own(n)}
    with torch.no_grad():
        watched: dict[Any, list[Any]] = {}
        for node, seen in norms.items():
            watched.setdefault(node.args[0], []).append(seen.add)
        for batch in batches if norms else ():
            Watch(model, watched).run(*batch)
        for node, seen in norms.items():
            if seen.count:
                _move(model, node, *seen.mean_and_variance())
    return model


class _Moments:
    """Sums of the values of each channel [n, channels, …] and of their squares."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Any = 0.0
        self.squares: Any = 0.0

    def add(self, x: Tensor) -> None:
        flat = x.detach().double().transpose(0, 1).flatten(1)
        self.count += flat.shape[1]
        self.sums, self.squares = self.sums + flat.sum(1), self.squares + flat.square().sum(1)

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        mean = self.sums / self.count
        return mean, (self.squares / self.count - mean.square()).clamp_min(0)


def _own(norm: Node) -> bool:
    """Whether a batch norm has weight, bias and statistics that nothing else reads."""
    parts: list[Any] = [argument(norm, n) for n in ("weight", "bias", "running_mean", "running_var")]
    return all(isinstance(p, Node) and p.op == "get_attr" and len(p.users) == 1 for p in parts)


def _move(model: Model, norm: Node, mean: Tensor, variance: Tensor) -> None:
    weight, bias, old_mean, old_variance = (
        model.tensor(argument(norm, n)) for n in ("weight", "bias", "running_mean", "running_var")
    )
    eps = float(argument(norm, "eps"))
    slope = weight.double() * (old_variance.double() + eps).rsqrt()
    for tensor, value in (
        (bias, bias.double() + slope * (mean - old_mean.double())), (weight, slope * (variance + eps).sqrt()),
        (old_mean, mean), (old_variance, variance),
    ):  # fmt: skip
        tensor.copy_(value.to(tensor.dtype))

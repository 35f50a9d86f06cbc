"""Regularisers toward small networks, as hooks.

Group lasso: Yuan and Lin 2006, a group an output channel as in Wen et al. 2016 (arXiv 1608.03665, section 3). Entropy:
the first-order entropy of the weights' integer levels, which is what an entropy coder is paid for; made differentiable
by sharing each weight between its two neighbouring levels (linear interpolation). Dropout: Han et al. 2015 (arXiv
1506.02626, section 3.2).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model, matching, patterns_of
from packlight.model.operators import argument, packet, set_argument
from packlight.train.hooks import Hook, Run, Seen

_TINY = 1e-12


class Penalty(Hook, ABC):
    """Adds strength · (a sum over the weights with two or more axes) to the loss.

    strength: >= 0. exclude: parameter-name patterns (shell wildcards) that it leaves alone.
    """

    def __init__(self, strength: float, exclude: str | Sequence[str] = ()):
        if not 0 <= strength < math.inf:
            raise PacklightError(f"a penalty's strength must be >= 0, got {strength}")
        self.strength, self.exclude = strength, patterns_of(exclude)
        self.weights: dict[str, nn.Parameter] = {}

    def start(self, run: Run) -> None:
        self.weights = dict(weights_of(run.model, self.exclude))

    @abstractmethod
    def of(self, name: str, weight: Tensor) -> Tensor:
        """What a weight tensor adds, before the strength."""

    def loss(self, run: Run, seen: Seen) -> Tensor:
        return self.strength * torch.stack([self.of(n, w) for n, w in self.weights.items()]).sum()

    def options(self) -> dict[str, Any]:
        excluded = {"exclude": list(self.exclude)} if self.exclude else {}
        return {type(self).__name__: {"strength": self.strength, **excluded}}


class L1(Penalty):
    """Sum of absolute weights: single weights become zero."""

    def of(self, name: str, weight: Tensor) -> Tensor:
        return weight.abs().sum()


class L2(Penalty):
    """Half the sum of squared weights: weights stay small."""

    def of(self, name: str, weight: Tensor) -> Tensor:
        return 0.5 * weight.square().sum()


class GroupLasso(Penalty):
    """Sum over output channels (axis 0) of √(weights in it) · their L2 norm: whole channels become zero."""

    def of(self, name: str, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        return math.sqrt(rows.shape[1]) * (rows.square().sum(1) + _TINY).sqrt().sum()


class Entropy(Penalty):
    """Mean bits a weight that its integer level costs under an ideal entropy coder that knows the layer's histogram.

    A quantized Model's own scales give the levels; elsewhere a weight tensor's largest magnitude is 2^(bits−1) − 1.
    """

    def __init__(self, strength: float, bits: int = 8, exclude: str | Sequence[str] = ()):
        super().__init__(strength, exclude)
        if not 2 <= bits <= 8:
            raise PacklightError(f"levels of 2 to 8 bits, got {bits}")
        self.bits = bits
        self.scales: dict[str, Tensor] = {}

    def start(self, run: Run) -> None:
        super().start(run)
        self.scales = weight_scales(run.model)

    def of(self, name: str, weight: Tensor) -> Tensor:
        total = sum(w.numel() for w in self.weights.values())
        most = 2 ** (self.bits - 1) - 1
        scale = self.scales.get(name)
        if scale is None:
            scale = weight.detach().abs().amax().clamp_min(_TINY) / most
        elif scale.numel() > 1:
            scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
        return weight.numel() / total * entropy_bits(weight / scale, most)

    def options(self) -> dict[str, Any]:
        told = super().options()
        return {name: {**values, "bits": self.bits} for name, values in told.items()}


def entropy_bits(levels: Tensor, most: int) -> Tensor:
    """Bits a value of the histogram over −most … most of real-valued levels, each counted at its two neighbours by
    nearness."""
    levels = levels.flatten().clamp(-most, most)
    lower = levels.detach().floor().clamp(-most, most - 1)
    share = levels - lower
    place = (lower + most).long()
    counts = levels.new_zeros(2 * most + 1).index_add(0, place, 1 - share).index_add(0, place + 1, share)
    p = counts / levels.numel()
    return -(p * (p + _TINY).log2()).sum()


class ResetDropout(Hook):
    """Dropout with another probability while this run lasts: a network that lost weights needs less.

    p: in [0, 1), for every dropout of the network; afterwards they are what they were.
    """

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise PacklightError(f"dropout needs a probability in [0, 1), got {p}")
        self.p = p
        self.before: dict[Node, Any] = {}

    def start(self, run: Run) -> None:
        self.before = {}
        for node in run.model.nodes:
            if packet(node).endswith("dropout") and "modes" in node.meta:
                self.before[node] = node.meta["modes"]
                known = argument(node, "p")
                node.meta["modes"] = {**self.before[node], "p": (known, self.p)}
        if not self.before:
            raise PacklightError(f"{run.model.name} has no dropout to reset")

    def end(self, run: Run) -> None:
        for node, values in self.before.items():
            set_argument(node, "p", node.meta["modes"]["p"][0])
            node.meta["modes"] = values
        run.model.graph_module.recompile()

    def options(self) -> dict[str, Any]:
        return {"dropout": self.p}


def weights_of(model: Model, exclude: str | Sequence[str] = ()) -> Iterator[tuple[str, nn.Parameter]]:
    """The trainable tensors with two or more axes, by name, but for those that a pattern excludes."""
    found = {n: p for n, p in model.named_parameters() if p.requires_grad and p.dim() >= 2}
    kept = matching(list(found), exclude)
    if not found.keys() - kept:
        raise PacklightError(f"{model.name} has no weights with two axes that are not excluded")
    return ((n, p) for n, p in found.items() if n not in kept)


def weight_scales(model: Model) -> dict[str, Tensor]:
    """Of quantized weights: parameter name → scales, [channels of axis 0] or [1]."""
    found = {}
    for node in model.nodes:
        if packet(node) == "quantize_per_channel":
            source, scale = node.args[:2]
            if isinstance(source, Node) and isinstance(scale, Node) and node.args[3] == 0:
                found[str(source.target)] = model.tensor(scale)
    return found

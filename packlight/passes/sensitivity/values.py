"""Statistics of the values that layers read and give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import packet
from packlight.passes.patches import CHANNELS
from packlight.passes.watch import Watch

Batch = tuple[Tensor, ...]
Values = dict[str, tuple[float, dict[str, float]]]  # layer → value, detail


class _Moments:
    """Sums over all values of a node, and over those of each channel."""

    def __init__(self, axis: int):
        self.axis, self.count = axis, 0
        self.first, self.low, self.high = 0.0, math.inf, -math.inf
        self.second: Any = 0.0  # [channels], mean squares times the count of their values

    def add(self, x: Tensor) -> None:
        flat = x.detach().movedim(self.axis, -1).reshape(-1, x.shape[self.axis])
        self.count += x.numel()
        self.first += float(flat.sum(dtype=torch.float64))
        self.second = self.second + flat.square().sum(0, dtype=torch.float64)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))

    def square(self) -> float:
        """The mean square."""
        return float(self.second.sum()) / self.count

    def largest_channel(self) -> float:
        """The largest channel's mean square over the mean one's."""
        mean = float(self.second.mean())
        return float(self.second.max()) / mean if mean else 1.0

    def deviation(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        mean = self.first / self.count
        return mean, math.sqrt(max(0.0, self.square() - mean * mean))


def inputs(model: Model, layers: Mapping[str, Node], batches: Sequence[Batch]) -> Values:
    """The mean square of what each layer reads; by how much the largest channel's exceeds the mean one's."""
    watched = {name: (node.args[0], CHANNELS.get(packet(node), 1)) for name, node in layers.items()}
    seen = _look(model, watched, batches)
    return {name: (m.square(), {"largest_channel": m.largest_channel()}) for name, m in seen.items()}


def activations(model: Model, layers: Mapping[str, Node], batches: Sequence[Batch]) -> Values:
    """The outlier ratio of what each layer gives, the farthest value's distance from the mean in standard deviations;
    mean, standard deviation and extremes beside it."""
    watched = {name: (node, CHANNELS.get(packet(node), 1)) for name, node in layers.items()}
    found = {}
    for name, m in _look(model, watched, batches).items():
        mean, deviation = m.deviation()
        far = max(m.high - mean, mean - m.low)
        told = {"mean": mean, "deviation": deviation, "min": m.low, "max": m.high}
        found[name] = (far / deviation if deviation > 0 else 0.0, told)
    return found


def _look(model: Model, watched: Mapping[str, tuple[Any, int]], batches: Sequence[Batch]) -> dict[str, _Moments]:
    seen = {name: _Moments(axis) for name, (_, axis) in watched.items()}
    looks: dict[Node, list[Callable[[Any], None]]] = {}
    for name, (node, _) in watched.items():
        looks.setdefault(node, []).append(seen[name].add)
    with torch.no_grad():
        for batch in batches:
            Watch(model, looks).run(*batch)
    return seen

"""How much a weight's error matters: the second moment of what it is multiplied with.

With δ the errors of a layer's weights, its outputs are off by E[(Σ δ_i x_i)²] ≈ Σ δ_i² E[x_i²], the diagonal of the
layer's second-order term (Hassibi and Stork 1993, "Second order derivatives for network pruning: Optimal Brain
Surgeon", where the whole matrix is used).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import packet
from packlight.passes.patches import features
from packlight.passes.watch import Watch

_LAYERS = ("linear", "conv1d", "conv2d")


def input_moments(model: Model, batches: Sequence[tuple[Tensor, ...]]) -> Mapping[str, Tensor]:
    """E[x²] for every weight of a linear layer or convolution, by the weight's name: float32, of the weight's shape,
    with a mean of 1. Layers of other kinds, and those that see nothing but zeros, are left out. batches: inputs."""
    model = model.copy(share_tensors=True).eval()
    sums: dict[str, Tensor] = {}
    watched: dict[Node, list[_Sum]] = {}
    for node in model.nodes:
        weight = node.args[1] if packet(node) in _LAYERS else None
        data = node.args[0] if node.args else None
        if isinstance(weight, Node) and weight.op == "get_attr" and isinstance(data, Node):
            watched.setdefault(data, []).append(_Sum(node, str(weight.target), model.tensor(weight).shape, sums))
    with torch.inference_mode():
        recorder = Watch(model, watched)
        for inputs in batches:
            recorder.run(*inputs)
    return {name: (s / s.mean()).float() for name, s in sums.items() if s.any()}


class _Sum:
    """Adds up squares of what one layer reads."""

    def __init__(self, layer: Node, name: str, shape: Sequence[int], sums: dict[str, Tensor]):
        self.layer, self.name, self.shape, self.sums = layer, name, tuple(shape), sums

    def __call__(self, x: Tensor) -> None:
        rows = features(self.layer, x, self.shape[2:])
        if rows is None:
            return
        squares = rows.square().sum(1, dtype=torch.float64)  # [groups, features]
        spread = squares.repeat_interleave(self.shape[0] // len(squares), 0).reshape(self.shape)
        self.sums[self.name] = self.sums[self.name] + spread if self.name in self.sums else spread

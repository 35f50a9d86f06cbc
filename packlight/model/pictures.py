"""Which weights stand over pictures: kernels of convolutions, and linear layers that read a picture flattened."""

from __future__ import annotations

import math

from torch import Tensor
from torch.fx import Node

from packlight.cosines import LONGEST, Waves
from packlight.model.model import Model
from packlight.model.operators import kind, packet


def pictures_of(model: Model) -> dict[str, Waves]:
    """By name of each weight whose columns are pictures of 2 elements or more, their waves."""
    found = {}
    for node in model.nodes:
        if packet(node) not in ("linear", "conv1d", "conv2d"):
            continue
        weight = node.args[1]
        assert isinstance(weight, Node)
        shape = model.tensor(weight).shape if weight.op == "get_attr" else ()
        sizes = _flattened(node.args[0], shape) if packet(node) == "linear" else tuple(shape[2:])
        height, width = (1, 1, *sizes)[-2:]
        if height * width > 1 and max(height, width) <= LONGEST:
            found[str(weight.target)] = Waves(height, width)
    return found


def _flattened(value: object, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of the maps [samples, channels, height, width] that a linear layer with a weight of this shape
    reads as one row a sample; () of other inputs."""
    while isinstance(value, Node) and kind(value) in ("unary", "reshape"):
        value = value.args[0]
        found = value.meta.get("val") if isinstance(value, Node) else None
        sizes = list(found.shape[1:]) if isinstance(found, Tensor) else []
        if len(sizes) == 3 and len(shape) == 2 and all(isinstance(s, int) for s in sizes):
            return tuple(sizes[1:]) if math.prod(sizes) == shape[1] else ()
    return ()

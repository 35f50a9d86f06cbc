"""What a layer's weights are multiplied with, as rows of features."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from packlight.model.operators import argument, packet

CHANNELS = {"linear": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1}  # axis of the channels that a layer reads


def unfolds(node: Node) -> bool:
    """Whether `patches` takes the layer: a convolution over one or two axes with padding in numbers."""
    return packet(node) in ("conv1d", "conv2d") and not isinstance(argument(node, "padding"), str)


def patches(node: Node, x: Tensor, size: tuple[int, ...]) -> Tensor:
    """What a convolution's kernel of this size sees, [positions, channels · taps]; x: its input."""
    one = packet(node) == "conv1d"
    fills = {"dilation": 1, "padding": 0, "stride": 1}  # of a row, along the axis that a sequence has not
    how: dict[str, Any] = {
        n: (fill, *argument(node, n)) if one else tuple(argument(node, n)) for n, fill in fills.items()
    }
    if one:
        x, size = x.unsqueeze(2), (1, *size)
    return F.unfold(x, size, **how).transpose(1, 2).flatten(0, 1)


def features(node: Node, x: Tensor, size: tuple[int, ...]) -> Tensor | None:
    """Rows of what one output channel of a layer sums up, [groups, positions, features]; None of other layers."""
    if packet(node) == "linear":
        return x.reshape(1, -1, x.shape[-1])
    if not unfolds(node):
        return None
    groups = int(argument(node, "groups"))
    rows = patches(node, x, size)
    return rows.reshape(len(rows), groups, -1).movedim(1, 0)

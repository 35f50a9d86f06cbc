"""SqueezeNet (Iandola et al. 2016, arXiv 1602.07360) for small images: the authors' version 1.1 with fewer halvings.

Where it deviates: the first convolution keeps the resolution and no pooling follows it, so that two halvings remain of
four; batch norm follows every convolution, so that it learns at the other networks' rates; the scores come from a
linear layer behind the pooling, without the paper's ReLU on them (a 1×1 convolution and a mean over places commute, and
a teacher's scores have both signs).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from packlight.networks.widths import scaled

# Channels of a fire module's squeeze and of each of its two expands; None halves the resolution.
_FIRES = ((16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256))


class Fire(nn.Module):
    """Section 3.2: 1×1 to `squeeze` channels, then 1×1 and 3×3 side by side to `expand` channels each."""

    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = _normed(inputs, squeeze, 1)
        self.narrow = _normed(squeeze, expand, 1)
        self.wide = _normed(squeeze, expand, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.squeeze(x))
        return relu(torch.cat([self.narrow(x), self.wide(x)], 1))


class SqueezeNet(nn.Module):
    """A 3×3 convolution, eight fire modules, dropout, pooling and a linear head."""

    def __init__(self, channels: int, classes: int, width: float):
        super().__init__()
        inputs = scaled(64, width)
        self.stem = _normed(channels, inputs, 3)
        layers: list[nn.Module] = []
        for fire in _FIRES:
            if fire is None:
                layers.append(nn.MaxPool2d(3, 2, 1))
                continue
            squeeze, expand = (scaled(base, width) for base in fire)
            layers.append(Fire(inputs, squeeze, expand))
            inputs = 2 * expand
        self.fires = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.pool(self.fires(relu(self.stem(x)))).flatten(1)))


def _normed(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def squeezenet(channels: int = 1, classes: int = 10, width: float = 1) -> SqueezeNet:
    """SqueezeNet 1.1 for small images: the resolution falls twice. width multiplies the channels."""
    return SqueezeNet(channels, classes, width)

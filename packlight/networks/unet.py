"""A small U-Net (Ronneberger, Fischer, Brox 2015, arXiv 1505.04597): a class a pixel."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class UNet(nn.Module):
    """Encoder of `depth` halvings and a decoder that joins each resolution's features; batch norm, same padding.

    Height and width must be multiples of 2^depth.
    """

    def __init__(self, channels: int, classes: int, width: int, depth: int):
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([channels, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(_double(a + b, a) for a, b in pairwise(widths))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(self.pool(x) if i else x)
            kept.append(x)
        for block, beside in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            x = block(torch.cat([beside, interpolate(x, scale_factor=2.0, mode="nearest")], 1))
        return self.head(x)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for read in (inputs, outputs):
        layers += [nn.Conv2d(read, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def unet(channels: int = 1, classes: int = 11, width: int = 8, depth: int = 3) -> UNet:
    """U-Net with `width` channels at full resolution, twice as many at each halving."""
    return UNet(channels, classes, width, depth)

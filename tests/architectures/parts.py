"""What many architectures share: a few blocks and example inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = Callable[[], tuple[Tensor, ...]]
Table = dict[str, tuple[Callable[[], nn.Module], Inputs]]


def floats(*shape: int) -> Inputs:
    """One float input of two samples, each of this shape."""
    return lambda: (torch.randn(2, *shape),)


def image(channels: int = 3, size: int = 32) -> Inputs:
    return floats(channels, size, size)


def tokens(length: int = 16, vocabulary: int = 50) -> Inputs:
    return lambda: (torch.randint(0, vocabulary, (2, length)),)


def both(*inputs: Inputs) -> Inputs:
    return lambda: tuple(tensor for made in inputs for tensor in made())


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, batch norm, activation (ReLU unless given; nn.Identity() for none)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True) if act is None else act)


def linear_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm, no activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Classifier(nn.Sequential):
    """Global average pooling, flatten, linear."""

    def __init__(self, width: int, classes: int = 10):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class SqueezeExcite(nn.Module):
    """Channel gates from two linear layers over pooled channels, as in SENet."""

    def __init__(self, width: int, reduced: int):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, reduced, bias=False), nn.ReLU(inplace=True), nn.Linear(reduced, width, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * self.fc(y).sigmoid().view(b, c, 1, 1).expand_as(x)

"""Residual networks (He et al. 2015, arXiv 1512.03385): section 4.2's ResNet-20 and table 1's ResNet-50."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from packlight.networks.widths import scaled


def _normed(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution with "same" padding for odd kernels, then batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut; a 1×1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = _normed(inputs, outputs, 3, stride)
        self.second = _normed(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _normed(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.second(relu(self.first(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1 to `width`, 3×3, 1×1 to four times `width`, around a shortcut; the stride is in the 3×3."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.reduce = _normed(inputs, width, 1)
        self.spatial = _normed(width, width, 3, stride)
        self.expand = _normed(width, outputs, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _normed(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.spatial(relu(self.reduce(x))))
        return relu(self.expand(y) + self.shortcut(x))


class SmallResNet(nn.Module):
    """Three stages of basic blocks at 16, 32 and 64 times `width` channels, rounded, for small images."""

    def __init__(self, channels: int, classes: int, width: float, blocks_a_stage: int):
        super().__init__()
        widths = [scaled(base, width) for base in (16, 32, 64)]
        self.stem = _normed(channels, widths[0], 3)
        blocks, inputs = [], widths[0]
        for stage, outputs in enumerate(widths):
            for i in range(blocks_a_stage):
                blocks.append(BasicBlock(inputs, outputs, 2 if stage and i == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(relu(self.stem(x)))).flatten(1))


class ResNet50(nn.Module):
    """Stages of 3, 4, 6 and 3 bottlenecks at widths 64 to 512, for 224-pixel images."""

    def __init__(self, channels: int = 3, classes: int = 1000):
        super().__init__()
        self.stem = _normed(channels, 64, 7, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], 64
        for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
            for i in range(count):
                blocks.append(Bottleneck(inputs, width, 2 if stage and i == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(relu(self.stem(x)))
        return self.head(self.average(self.blocks(x)).flatten(1))


def resnet20(channels: int = 1, classes: int = 10, width: float = 1) -> SmallResNet:
    """ResNet-20 for small images: three blocks a stage. width multiplies the channels."""
    return SmallResNet(channels, classes, width, 3)


def resnet8(channels: int = 1, classes: int = 10, width: float = 1) -> SmallResNet:
    """ResNet-8 for small images: one block a stage. width multiplies the channels."""
    return SmallResNet(channels, classes, width, 1)


def resnet50(channels: int = 3, classes: int = 1000) -> ResNet50:
    """ResNet-50 for 224-pixel images."""
    return ResNet50(channels, classes)

"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381, table 2): inverted residuals with linear bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from packlight.networks.widths import scaled


class Stage(NamedTuple):
    """Blocks with equal outputs. expansion: times the inputs. stride: of the first block. kernel: odd, in pixels."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int = 3


_SMALL = (Stage(1, 16, 1, 1), Stage(4, 24, 2, 2), Stage(4, 40, 3, 2), Stage(4, 80, 2, 1))
_STAGES = (
    Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 32, 3, 2), Stage(6, 64, 4, 2), Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2), Stage(6, 320, 1, 1),
)  # fmt: skip


def normed_relu6(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with "same" padding for odd kernels, batch norm, ReLU6."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise, 1×1 projection without activation; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int = 3):
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [normed_relu6(inputs, hidden, 1)] if expansion > 1 else []
        layers += [normed_relu6(hidden, hidden, kernel, stride, hidden), nn.Conv2d(hidden, outputs, 1, bias=False)]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def inverted_residuals(inputs: int, stages: Sequence[Stage], width: float) -> tuple[list[nn.Module], int]:
    """The stages' blocks behind `inputs` channels, their own channels multiplied by width, and what the last gives."""
    blocks: list[nn.Module] = []
    for stage in stages:
        outputs = scaled(stage.channels, width)
        for i in range(stage.blocks):
            blocks.append(InvertedResidual(inputs, outputs, 1 if i else stage.stride, stage.expansion, stage.kernel))
            inputs = outputs
    return blocks, inputs


class MobileNetV2(nn.Module):
    """A first convolution of `stem` channels, the stages, a 1×1 convolution to `last` channels, pooling and a head.

    width multiplies the channels of all of them.
    """

    def __init__(
        self, channels: int, classes: int, stages: Sequence[Stage], stem: int, stem_stride: int, last: int,
        width: float = 1,
    ):  # fmt: skip
        super().__init__()
        stem, last = scaled(stem, width), scaled(last, width)
        first = normed_relu6(channels, stem, 3, stem_stride)
        blocks, outputs = inverted_residuals(stem, stages, width)
        self.features = nn.Sequential(first, *blocks, normed_relu6(outputs, last, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


def mobilenet_v2(channels: int = 3, classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 at width 1.0, for 224-pixel images."""
    return MobileNetV2(channels, classes, _STAGES, stem=32, stem_stride=2, last=1280)


def mobilenet_v2_small(channels: int = 1, classes: int = 10, width: float = 1) -> MobileNetV2:
    """A MobileNetV2 for images of about 30 pixels: the resolution falls twice, at most 80 channels between blocks.

    width multiplies the channels.
    """
    return MobileNetV2(channels, classes, _SMALL, stem=16, stem_stride=1, last=320, width=width)

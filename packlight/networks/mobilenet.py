"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381, table 2): inverted residuals with linear bottlenecks."""

from __future__ import annotations

from torch import Tensor, nn

Stage = tuple[int, int, int, int]  # expansion, channels, blocks, stride of the first block
_SMALL: tuple[Stage, ...] = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 40, 3, 2), (4, 80, 2, 1))
_STAGES: tuple[Stage, ...] = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _layer(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 projection without activation; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [_layer(inputs, hidden, 1)] if expansion > 1 else []
        layers += [_layer(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, outputs, 1, bias=False)]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Module):
    """A first convolution of `stem` channels, the stages, a 1×1 convolution to `last` channels, pooling and a head."""

    def __init__(self, channels: int, classes: int, stages: tuple[Stage, ...], stem: int, stem_stride: int, last: int):
        super().__init__()
        layers: list[nn.Module] = [_layer(channels, stem, 3, stem_stride)]
        inputs = stem
        for expansion, outputs, count, stride in stages:
            for i in range(count):
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, _layer(inputs, last, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


def mobilenet_v2(channels: int = 3, classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 at width 1.0, for 224-pixel images."""
    return MobileNetV2(channels, classes, _STAGES, stem=32, stem_stride=2, last=1280)


def mobilenet_v2_small(channels: int = 1, classes: int = 10) -> MobileNetV2:
    """A MobileNetV2 for images of about 30 pixels: the resolution falls twice, at most 80 channels between blocks."""
    return MobileNetV2(channels, classes, _SMALL, stem=16, stem_stride=1, last=320)

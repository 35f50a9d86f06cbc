"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381, table 2): inverted residuals with linear bottlenecks."""

from __future__ import annotations

from torch import Tensor, nn

# expansion, channels, blocks, stride of the first block
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


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
    """The whole network. early_stride: 2 for 224-pixel images, 1 for small ones (first two strides)."""

    def __init__(self, channels: int, classes: int, early_stride: int):
        super().__init__()
        layers: list[nn.Module] = [_layer(channels, 32, 3, early_stride)]
        inputs = 32
        for stage, (expansion, outputs, count, stride) in enumerate(_STAGES):
            for i in range(count):
                first = early_stride if stage == 1 else stride
                layers.append(InvertedResidual(inputs, outputs, first if i == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, _layer(inputs, 1280, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


def mobilenet_v2(channels: int = 3, classes: int = 1000, early_stride: int = 2) -> MobileNetV2:
    """MobileNetV2 at width 1.0; early_stride=1 keeps the resolution of small images through the first stages."""
    return MobileNetV2(channels, classes, early_stride)

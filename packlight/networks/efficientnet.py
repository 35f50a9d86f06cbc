"""EfficientNet-Lite0 for small images: EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1) as changed for edge
devices (R. Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite"): ReLU6, no squeeze-and-excitation.

Where it deviates: the resolution falls three times instead of five (strides of 1 in the first convolution and in the
stage of 192 channels), and a width multiplies the first and the last convolution's channels too, which Lite keeps.
"""

from __future__ import annotations

from torch import Tensor, nn

from packlight.networks.mobilenet import Stage, inverted_residuals, normed_relu6
from packlight.networks.widths import scaled

_STAGES = (
    Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 40, 2, 2, kernel=5), Stage(6, 80, 3, 2),
    Stage(6, 112, 3, 1, kernel=5), Stage(6, 192, 4, 1, kernel=5), Stage(6, 320, 1, 1),
)  # fmt: skip


class EfficientNetLite(nn.Module):
    """A 3×3 convolution, the stages of inverted residuals, a 1×1 convolution, pooling, dropout and a linear head."""

    def __init__(self, channels: int, classes: int, width: float):
        super().__init__()
        stem, last = scaled(32, width), scaled(1280, width)
        first = normed_relu6(channels, stem, 3)
        blocks, outputs = inverted_residuals(stem, _STAGES, width)
        self.features = nn.Sequential(first, *blocks, normed_relu6(outputs, last, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.pool(self.features(x)).flatten(1)))


def efficientnet_lite(channels: int = 1, classes: int = 10, width: float = 1) -> EfficientNetLite:
    """EfficientNet-Lite0 for small images: the resolution falls three times. width multiplies the channels."""
    return EfficientNetLite(channels, classes, width)

"""Networks for phones, and super-resolution: depthwise convolutions, gates, shuffles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, Table, conv_bn, image, linear_bn


def mobilenet_v1() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2)]
    for inputs, outputs, stride in ((16, 24, 1), (24, 32, 2), (32, 32, 1)):
        layers += [conv_bn(inputs, inputs, 3, stride, inputs), conv_bn(inputs, outputs, 1)]
    return nn.Sequential(*layers, Classifier(32))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, expand: int = 4, kernel: int = 3):
        super().__init__()
        width = inputs * expand
        layers = [conv_bn(inputs, width, 1, act=nn.ReLU6(inplace=True))] if expand > 1 else []
        layers.append(conv_bn(width, width, kernel, stride, width, nn.ReLU6(inplace=True)))
        self.conv = nn.Sequential(*layers, nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.use_res_connect = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


def mobilenet_v2() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.ReLU6(inplace=True)), InvertedResidual(16, 8, expand=1), InvertedResidual(8, 16, 2),
        InvertedResidual(16, 16), InvertedResidual(16, 16), conv_bn(16, 64, 1, act=nn.ReLU6(inplace=True)),
        Classifier(64),
    )  # fmt: skip


class HardGate(nn.Module):
    """Squeeze and excitation of 1×1 convolutions with a hard sigmoid."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, 8, 1), nn.Conv2d(8, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.hardsigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))), inplace=True)
        return scale * x


class V3Block(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, kernel: int, stride: int, gate: bool, hard: bool):
        super().__init__()
        act = nn.Hardswish if hard else nn.ReLU
        self.block = nn.Sequential(
            conv_bn(inputs, width, 1, act=act(inplace=True)), conv_bn(width, width, kernel, stride, width, act()),
            HardGate(width) if gate else nn.Identity(), linear_bn(width, outputs),
        )  # fmt: skip
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        result = self.block(x)
        if self.residual:
            result += x
        return result


def mobilenet_v3() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.Hardswish(inplace=True)), V3Block(16, 32, 16, 3, 1, True, False),
        V3Block(16, 40, 24, 3, 2, False, False), V3Block(24, 48, 24, 5, 1, True, True),
        conv_bn(24, 64, 1, act=nn.Hardswish(inplace=True)), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
        nn.Linear(64, 64), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True), nn.Linear(64, 10),
    )  # fmt: skip


class MbConv(nn.Module):
    """EfficientNet: expand, depthwise, gate of swishes, project."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3):
        super().__init__()
        width = inputs * 4
        self.expand = conv_bn(inputs, width, 1, act=nn.SiLU(inplace=True))
        self.depthwise = conv_bn(width, width, kernel, stride, width, nn.SiLU(inplace=True))
        self.reduce, self.restore = nn.Conv2d(width, inputs // 2, 1), nn.Conv2d(inputs // 2, width, 1)
        self.project = linear_bn(width, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        gate = self.restore(F.silu(self.reduce(y.mean((2, 3), keepdim=True))))
        y = self.project(torch.sigmoid(gate) * y)
        return F.dropout(y, 0.2, self.training) + x if self.residual else y


def efficientnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.SiLU()), MbConv(16, 16), MbConv(16, 24, 2, 5), MbConv(24, 24),
        conv_bn(24, 64, 1, act=nn.SiLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10),
    )  # fmt: skip


class FusedMbConv(nn.Module):
    """EfficientNet-V2: one 3×3 for expansion and depthwise."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(conv_bn(width, 4 * width, act=nn.SiLU()), linear_bn(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


def efficientnet_v2() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.SiLU()), FusedMbConv(16), MbConv(16, 32, 2), MbConv(32, 32), Classifier(32)
    )


def mnasnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), conv_bn(16, 16, 3, groups=16), linear_bn(16, 8),
        InvertedResidual(8, 16, 2, 3), InvertedResidual(16, 16, 1, 3), InvertedResidual(16, 24, 2, 6, 5),
        conv_bn(24, 64, 1), Classifier(64),
    )  # fmt: skip


def fbnet() -> nn.Module:
    """Searched: kernels, expansions and widths change from block to block."""
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), InvertedResidual(16, 16, 1, 1), InvertedResidual(16, 24, 2, 6, 5),
        InvertedResidual(24, 24, 1, 1, 3), InvertedResidual(24, 24, 1, 3, 5), nn.Conv2d(24, 48, 1), nn.ReLU(),
        Classifier(48),
    )  # fmt: skip


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, channels, height, width)


class ShuffleV1Block(nn.Module):
    """Grouped 1×1, shuffle, depthwise, grouped 1×1; added, or concatenated with the pooled input."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 4):
        super().__init__()
        self.groups, self.stride = groups, stride
        branch = outputs - inputs if stride == 2 else outputs
        self.squeeze = conv_bn(inputs, 16, 1, groups=groups)
        self.depthwise = linear_bn(16, 16, 3, stride, 16)
        self.expand = linear_bn(16, branch, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        out = channel_shuffle(self.squeeze(x), self.groups)
        out = self.expand(self.depthwise(out))
        if self.stride == 2:
            return F.relu(torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1))
        return F.relu(out + x)


def shufflenet_v1() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 24, 3, 2), ShuffleV1Block(24, 48, 2), ShuffleV1Block(48, 48, 1), ShuffleV1Block(48, 48, 1),
        Classifier(48),
    )  # fmt: skip


class ShuffleV2Block(nn.Module):
    """Half of the channels pass untouched; the halves are mixed after the concatenation."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride, half = stride, outputs // 2
        entering = inputs if stride == 2 else half
        self.branch1 = nn.Sequential(linear_bn(inputs, inputs, 3, 2, inputs), conv_bn(inputs, half, 1))
        if stride == 1:
            self.branch1 = nn.Sequential()
        self.branch2 = nn.Sequential(
            conv_bn(entering, half, 1), linear_bn(half, half, 3, stride, half), conv_bn(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


def shufflenet_v2() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), ShuffleV2Block(16, 32, 2), ShuffleV2Block(32, 32, 1), ShuffleV2Block(32, 32, 1),
        conv_bn(32, 64, 1), Classifier(64),
    )  # fmt: skip


class InterleavedGroups(nn.Module):
    """nn.ChannelShuffle between grouped convolutions of different group counts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 24, 3, 2)
        self.body = nn.Sequential(
            conv_bn(24, 24, 3, groups=3), nn.ChannelShuffle(3), conv_bn(24, 48, 1, groups=2), nn.ChannelShuffle(4)
        )
        self.head = nn.Conv2d(48, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x))).amax(dim=(2, 3))


class Ghost(nn.Module):
    """Half of the channels made cheaply from the other half; the concatenation is cut to the width."""

    def __init__(self, inputs: int, outputs: int, act: bool = True):
        super().__init__()
        self.outputs, half = outputs, (outputs + 1) // 2
        last = nn.ReLU(inplace=True) if act else nn.Identity()
        self.primary, self.cheap = conv_bn(inputs, half, 1, act=last), conv_bn(half, half, 3, groups=half, act=last)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary(x)
        x2 = self.cheap(x1)
        return torch.cat([x1, x2], dim=1)[:, : self.outputs, :, :]


class GhostBottleneck(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.ghost1, self.gate, self.ghost2 = Ghost(width, hidden), HardGate(hidden), Ghost(hidden, width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.ghost2(self.gate(self.ghost1(x))) + x


def ghostnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), GhostBottleneck(16, 47), Ghost(16, 24), nn.MaxPool2d(2), GhostBottleneck(24, 48),
        Classifier(24),
    )  # fmt: skip


class MobileOneBlock(nn.Module):
    """As trained: several copies of the kernel, a 1×1 scale and a batch norm, summed."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.convs = nn.ModuleList([linear_bn(inputs, outputs, kernel, stride, groups) for _ in range(2)])
        self.scale = linear_bn(inputs, outputs, 1, stride, groups) if kernel > 1 else None
        self.skip = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.skip(x) if self.skip is not None else 0
        if self.scale is not None:
            out = out + self.scale(x)
        for conv in self.convs:
            out += conv(x)
        return F.relu(out)


def mobileone() -> nn.Module:
    return nn.Sequential(
        MobileOneBlock(3, 16, 3, 2), MobileOneBlock(16, 16, 3, 1, 16), MobileOneBlock(16, 32, 1),
        MobileOneBlock(32, 32, 3, 2, 32), MobileOneBlock(32, 32, 1), Classifier(32),
    )  # fmt: skip


class Espcn(nn.Module):
    """The last convolution's channels become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 16, 3, padding=1)
        self.conv3, self.pixel_shuffle = nn.Conv2d(16, 3**2, 3, padding=1), nn.PixelShuffle(3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(x))))
        return torch.clamp(self.pixel_shuffle(self.conv3(x)), 0.0, 1.0)


class EdsrBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(True), nn.Conv2d(width, width, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mul(0.1) + x


class Edsr(nn.Module):
    """A pixel shuffle that feeds further channels; mean shift by a frozen 1×1; a long skip."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.head, self.body = nn.Conv2d(3, 24, 3, 1, 1), nn.Sequential(EdsrBlock(24), EdsrBlock(24))
        self.tail = nn.Sequential(nn.Conv2d(24, 96, 3, 1, 1), nn.PixelShuffle(2), nn.Conv2d(24, 3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.shift(x))
        res = self.body(x)
        res += x
        return self.tail(res)


class SpaceToDepth(nn.Module):
    """YOLOv5's focus by strided slices, and nn.PixelUnshuffle later on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.late, self.head = conv_bn(12, 16), conv_bn(64, 32), Classifier(32)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)
        return self.head(self.late(F.pixel_unshuffle(self.stem(x), 2)))


TABLE: Table = {
    "mobilenet_v1": (mobilenet_v1, image()),
    "mobilenet_v2": (mobilenet_v2, image()),
    "mobilenet_v3": (mobilenet_v3, image()),
    "efficientnet": (efficientnet, image()),
    "efficientnet_v2": (efficientnet_v2, image()),
    "mnasnet": (mnasnet, image()),
    "fbnet": (fbnet, image()),
    "shufflenet_v1": (shufflenet_v1, image()),
    "shufflenet_v2": (shufflenet_v2, image()),
    "interleaved_groups": (InterleavedGroups, image()),
    "ghostnet": (ghostnet, image()),
    "mobileone": (mobileone, image()),
    "espcn": (Espcn, image(1, 16)),
    "edsr": (Edsr, image(3, 16)),
    "space_to_depth": (SpaceToDepth, image()),
}

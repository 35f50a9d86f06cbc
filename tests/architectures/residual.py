"""Residual networks and their kin: what is added must keep the same channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, SqueezeExcite, Table, conv_bn, image, linear_bn


class Basic(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int = 1, gate: nn.Module | None = None):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.gate = gate
        self.downsample = linear_bn(inputs, width, 1, stride) if stride != 1 or inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.gate is not None:
            out = self.gate(out)
        out += identity
        return self.relu(out)


def resnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16), nn.MaxPool2d(3, 2, 1), Basic(16, 16), Basic(16, 16), Basic(16, 32, 2), Basic(32, 32),
        Classifier(32),
    )  # fmt: skip


def se_resnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16), Basic(16, 16, gate=SqueezeExcite(16, 8)), Basic(16, 32, 2, gate=SqueezeExcite(32, 8)),
        Classifier(32),
    )  # fmt: skip


class PaddedShortcut(nn.Module):
    """ResNet for CIFAR, option A: the shortcut takes every second pixel and pads zero channels on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = conv_bn(3, 16), Basic(16, 16)
        self.down = nn.Sequential(conv_bn(16, 32, 3, 2), linear_bn(32, 32, 3))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        x = F.relu(self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
        x = F.avg_pool2d(x, x.size()[3])
        return self.fc(x.view(x.size(0), -1))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1, groups: int = 1, gate: int = 0):
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, width, 1), conv_bn(width, width, 3, stride, groups), linear_bn(width, outputs)
        )
        self.gate = SqueezeExcite(outputs, gate) if gate else nn.Identity()
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else linear_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.gate(self.body(x)) + self.shortcut(x), inplace=True)


def bottleneck_resnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 7, 2), Bottleneck(16, 8, 32), Bottleneck(32, 8, 32), Bottleneck(32, 16, 64, 2), Classifier(64)
    )


def resnext() -> nn.Module:
    """Four groups in every 3×3."""
    return nn.Sequential(
        conv_bn(3, 16), Bottleneck(16, 16, 32, groups=4), Bottleneck(32, 32, 64, 2, groups=4), Classifier(64)
    )


def regnet() -> nn.Module:
    """Group width 8, no bottleneck ratio, squeeze and excitation at the block's end."""
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), Bottleneck(16, 24, 24, 2, groups=3, gate=8), Bottleneck(24, 24, 24, groups=3, gate=8),
        Bottleneck(24, 48, 48, 2, groups=6, gate=8), Classifier(48),
    )  # fmt: skip


class PreActivation(nn.Module):
    """Norm and activation before each convolution; the shortcut leaves after the first of them."""

    def __init__(self, inputs: int, width: int, stride: int = 1, drop: float = 0.0):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.drop = drop
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = F.dropout(F.relu(self.bn2(self.conv1(out))), p=self.drop, training=self.training)
        return torch.add(self.conv2(out), shortcut)


def preactivation_resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), PreActivation(16, 16), PreActivation(16, 32, 2), PreActivation(32, 32),
        nn.BatchNorm2d(32), nn.ReLU(), Classifier(32),
    )  # fmt: skip


def wide_resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), PreActivation(8, 32, drop=0.3), PreActivation(32, 64, 2, drop=0.3),
        nn.BatchNorm2d(64, momentum=0.9), nn.ReLU(inplace=True), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


class Res2Block(nn.Module):
    """Four splits of the width; each passes through its convolution with the previous one's result added."""

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.width = width
        self.conv1, self.conv3 = conv_bn(inputs, 4 * width, 1), linear_bn(4 * width, outputs)
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(3)])
        self.bns = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(3)])
        self.shortcut = nn.Identity() if inputs == outputs else linear_bn(inputs, outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(self.conv1(x), self.width, 1)
        made: list[Tensor] = []
        for i, (conv, norm) in enumerate(zip(self.convs, self.bns, strict=True)):
            piece = pieces[i] if i == 0 else made[-1] + pieces[i]
            made.append(self.relu(norm(conv(piece))))
        out = self.conv3(torch.cat((*made, pieces[3]), 1))
        out += self.shortcut(x)
        return self.relu(out)


def res2net() -> nn.Module:
    return nn.Sequential(conv_bn(3, 16, 3, 2), Res2Block(16, 8, 32), Res2Block(32, 8, 32), Classifier(32))


class SplitAttention(nn.Module):
    """ResNeSt: two splits (radix 2, cardinality 2), a softmax over the splits for every channel."""

    def __init__(self, width: int, radix: int = 2, cardinality: int = 2):
        super().__init__()
        self.width, self.radix, self.cardinality = width, radix, cardinality
        self.conv = nn.Conv2d(width, width * radix, 3, padding=1, groups=cardinality * radix, bias=False)
        self.bn0, self.bn1 = nn.BatchNorm2d(width * radix), nn.BatchNorm2d(16)
        self.fc1 = nn.Conv2d(width, 16, 1, groups=cardinality)
        self.fc2 = nn.Conv2d(16, width * radix, 1, groups=cardinality)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.conv(x)))
        batch, channels = x.shape[:2]
        splits = torch.split(x, channels // self.radix, dim=1)
        gap = F.adaptive_avg_pool2d(sum(splits), 1)
        attention = self.fc2(F.relu(self.bn1(self.fc1(gap))))
        attention = attention.view(batch, self.cardinality, self.radix, -1).transpose(1, 2)
        attention = F.softmax(attention, dim=1).reshape(batch, -1).view(batch, -1, 1, 1)
        parts = torch.split(attention, channels // self.radix, dim=1)
        return sum(a * split for a, split in zip(parts, splits, strict=True)).contiguous()


class Wrapped(nn.Module):
    """A 1×1 before and after some operator, and a shortcut around."""

    def __init__(self, width: int, middle: int, operator: nn.Module):
        super().__init__()
        self.reduce, self.operator, self.expand = conv_bn(width, middle, 1), operator, linear_bn(middle, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.expand(self.operator(self.reduce(x))) + x)


def resnest() -> nn.Module:
    return nn.Sequential(conv_bn(3, 32, 3, 2), Wrapped(32, 16, SplitAttention(16)), Classifier(32))


class SelectiveKernel(nn.Module):
    """SKNet: two kernels stacked on a new axis, weighted by a softmax over that axis."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList([
            conv_bn(width, width, 3, groups=4),
            nn.Sequential(
                nn.Conv2d(width, width, 3, 1, 2, 2, groups=4, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            ),
        ])  # fmt: skip
        self.fc = nn.Sequential(nn.Conv2d(width, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.fcs = nn.ModuleList([nn.Conv2d(16, width, 1) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        feats = torch.stack([conv(x) for conv in self.convs], dim=1)
        pooled = self.fc(feats.sum(1).mean((2, 3), keepdim=True))
        weights = torch.stack([fc(pooled) for fc in self.fcs], dim=1).softmax(1)
        return (feats * weights).sum(dim=1)


def sknet() -> nn.Module:
    return nn.Sequential(conv_bn(3, 32, 3, 2), Wrapped(32, 16, SelectiveKernel(16)), Classifier(32))


class Cbam(nn.Module):
    """A channel gate by one MLP over average and maximum, a spatial gate over the channels' mean and maximum."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, width))
        self.spatial = linear_bn(2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        average = self.mlp(F.avg_pool2d(x, (x.size(2), x.size(3))))
        peak = self.mlp(F.max_pool2d(x, (x.size(2), x.size(3))))
        x = x * torch.sigmoid(average + peak).unsqueeze(2).unsqueeze(3).expand_as(x)
        squeezed = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.spatial(squeezed))


def cbam_resnet() -> nn.Module:
    return nn.Sequential(conv_bn(3, 16), Basic(16, 32, 2, gate=Cbam(32)), Basic(32, 32, gate=Cbam(32)), Classifier(32))


class EfficientChannelAttention(nn.Module):
    """A 1-D convolution along the channels: each gate needs its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
        return x * y.transpose(-1, -2).unsqueeze(-1).sigmoid()


def eca_resnet() -> nn.Module:
    gates = EfficientChannelAttention(), EfficientChannelAttention()
    return nn.Sequential(conv_bn(3, 16), Basic(16, 32, 2, gate=gates[0]), Basic(32, 32, gate=gates[1]), Classifier(32))


class DarkBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        act = nn.LeakyReLU(0.1, inplace=True)
        self.body = nn.Sequential(conv_bn(width, width // 2, 1, act=act), conv_bn(width // 2, width, 3, act=act))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def darknet() -> nn.Module:
    leaky = nn.LeakyReLU(0.1)
    return nn.Sequential(
        conv_bn(3, 16, act=leaky), conv_bn(16, 32, 3, 2, act=leaky), DarkBlock(32), conv_bn(32, 64, 3, 2, act=leaky),
        DarkBlock(64), DarkBlock(64), Classifier(64),
    )  # fmt: skip


class RepVggBlock(nn.Module):
    """As trained: 3×3, 1×1 and a bare batch norm in parallel."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.dense, self.point = linear_bn(inputs, outputs, 3, stride), linear_bn(inputs, outputs, 1, stride)
        self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        identity = 0 if self.identity is None else self.identity(x)
        return F.relu(self.dense(x) + self.point(x) + identity)


def repvgg() -> nn.Module:
    return nn.Sequential(
        RepVggBlock(3, 16, 2), RepVggBlock(16, 32, 2), RepVggBlock(32, 32), RepVggBlock(32, 32), Classifier(32)
    )


class ChannelsLastNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return super().forward(x).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise 7×7, layer norm and linears with the channels last, layer scale."""

    def __init__(self, width: int):
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        return shortcut + x.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), ChannelsLastNorm(16, eps=1e-6))
        self.stages = nn.Sequential(
            ConvNextBlock(16), ConvNextBlock(16), ChannelsLastNorm(16), nn.Conv2d(16, 32, 2, 2), ConvNextBlock(32)
        )
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(self.stem(x)).mean([-2, -1])))


class GlobalResponse(nn.Module):
    """ConvNeXt-V2: each channel is scaled by its norm over the mean norm of all channels."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, width)), nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (size / (size.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x


class ConvNextV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), GlobalResponse(64), nn.Linear(64, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.mlp(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(x.flatten(2).mean(-1))


class ConvMixer(nn.Module):
    """A residual around the depthwise half only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.GELU(), nn.BatchNorm2d(32))
        self.depthwise = nn.ModuleList([conv_bn(32, 32, 5, groups=32, act=nn.GELU()) for _ in range(2)])
        self.pointwise = nn.ModuleList([conv_bn(32, 32, 1, act=nn.GELU()) for _ in range(2)])
        self.head = Classifier(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = pointwise(depthwise(x) + x)
        return self.head(x)


class ReZero(nn.Module):
    """A learnt scalar gate (ReZero) on one branch, a fixed ½ on the other; an average of two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv_bn(3, 24, 3, 2), conv_bn(24, 24), conv_bn(24, 24, 1)
        self.alpha, self.head = nn.Parameter(torch.full((1,), 0.3)), Classifier(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.alpha * self.left(x)
        return self.head((x + self.right(x)) / 2)


TABLE: Table = {
    "resnet": (resnet, image()),
    "resnet_padded_shortcut": (PaddedShortcut, image()),
    "se_resnet": (se_resnet, image()),
    "bottleneck_resnet": (bottleneck_resnet, image()),
    "resnext": (resnext, image()),
    "regnet": (regnet, image()),
    "preactivation_resnet": (preactivation_resnet, image()),
    "wide_resnet": (wide_resnet, image()),
    "res2net": (res2net, image()),
    "resnest": (resnest, image()),
    "sknet": (sknet, image()),
    "cbam_resnet": (cbam_resnet, image()),
    "eca_resnet": (eca_resnet, image()),
    "darknet": (darknet, image()),
    "repvgg": (repvgg, image()),
    "convnext": (ConvNext, image()),
    "convnext_v2": (ConvNextV2, image()),
    "convmixer": (ConvMixer, image()),
    "rezero": (ReZero, image()),
}

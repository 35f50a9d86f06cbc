"""Networks that concatenate, split, branch and fuse: dense connections, mixed kernels, cells, gates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, Table, both, conv_bn, image, linear_bn


class DenseLayer(nn.Module):
    """Norms over the concatenation of all that came before."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1)), inplace=True))
        return self.conv2(F.relu(self.norm2(x), inplace=True))


class DenseBlock(nn.Module):
    def __init__(self, inputs: int, layers: int, growth: int):
        super().__init__()
        self.layers = nn.ModuleList([DenseLayer(inputs + i * growth, growth) for i in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


def densenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), DenseBlock(16, 3, 8),
        nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 24, 1, bias=False), nn.AvgPool2d(2, 2),
        DenseBlock(24, 2, 8), nn.BatchNorm2d(40), nn.ReLU(), Classifier(40),
    )  # fmt: skip


class DualPath(nn.Module):
    """DPN: the first channels are added, the rest are appended."""

    def __init__(self, inputs: int, width: int, growth: int, first: bool):
        super().__init__()
        self.width = width
        self.project = conv_bn(inputs, width + growth, 1) if first else None
        self.body = nn.Sequential(conv_bn(inputs, 16, 1), conv_bn(16, 16, 3, groups=4), conv_bn(16, width + growth, 1))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.project is None else self.project(x)
        y, d = self.body(x), self.width
        return F.relu(torch.cat([shortcut[:, :d] + y[:, :d], shortcut[:, d:], y[:, d:]], 1))


def dpn() -> nn.Module:
    return nn.Sequential(conv_bn(3, 16, 3, 2), DualPath(16, 24, 8, True), DualPath(40, 24, 8, False), Classifier(48))


class OneShotAggregation(nn.Module):
    """VoVNet: a chain of convolutions, all of whose outputs meet once, with an effective gate and the identity."""

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.layers = nn.ModuleList([conv_bn(inputs if i == 0 else width, width) for i in range(3)])
        self.concat, self.fc = conv_bn(inputs + 3 * width, outputs, 1), nn.Conv2d(outputs, outputs, 1)
        self.identity = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        identity, outputs = x, [x]
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        x = self.concat(torch.cat(outputs, dim=1))
        x = x * (F.relu6(self.fc(x.mean((2, 3), keepdim=True)) + 3.0) / 6.0)
        return x + identity if self.identity else x


def vovnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), OneShotAggregation(16, 8, 32), nn.MaxPool2d(3, 2, ceil_mode=True),
        OneShotAggregation(32, 16, 32), Classifier(32),
    )  # fmt: skip


class Separable(nn.Sequential):
    def __init__(self, inputs: int, outputs: int):
        depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        super().__init__(depthwise, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class XceptionBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.rep = nn.Sequential(
            nn.ReLU(), Separable(inputs, outputs), nn.ReLU(), Separable(outputs, outputs), nn.MaxPool2d(3, 2, 1)
        )
        self.skip = linear_bn(inputs, outputs, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.rep(x) + self.skip(x)


def xception() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), XceptionBlock(16, 32), XceptionBlock(32, 48), nn.ReLU(), Separable(48, 64), nn.ReLU(),
        Classifier(64),
    )  # fmt: skip


class MixedKernels(nn.Module):
    """MixNet: depthwise kernels of three sizes over uneven splits of the channels."""

    def __init__(self, inputs: int, widths: tuple[int, ...]):
        super().__init__()
        self.widths, total = list(widths), sum(widths)
        self.expand, self.project = conv_bn(inputs, total, 1), linear_bn(total, inputs)
        self.convs = nn.ModuleList([nn.Conv2d(w, w, 3 + 2 * i, padding=1 + i, groups=w) for i, w in enumerate(widths)])
        self.norm = nn.BatchNorm2d(total)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(self.expand(x), self.widths, dim=1)
        y = torch.cat([conv(piece) for conv, piece in zip(self.convs, pieces, strict=True)], 1)
        return self.project(F.silu(self.norm(y))) + x


def mixnet() -> nn.Module:
    return nn.Sequential(conv_bn(3, 16, 3, 2), MixedKernels(16, (24, 16, 8)), Classifier(16))


class NasCell(nn.Module):
    """NASNet: a cell takes the two cells before it; sums of pairs of operators, concatenated."""

    def __init__(self, before: int, last: int, width: int):
        super().__init__()
        self.adjust0, self.adjust1 = linear_bn(before, width), linear_bn(last, width)
        self.separable = nn.ModuleList([Separable(width, width) for _ in range(3)])

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        h0, h1 = self.adjust0(F.relu(before)), self.adjust1(F.relu(last))
        left = self.separable[0](h0) + h1
        right = self.separable[1](h1) + F.avg_pool2d(h0, 3, 1, 1, count_include_pad=False)
        return torch.cat([left, right, self.separable[2](left) + F.max_pool2d(right, 3, 1, 1), h0], 1)


class NasNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = linear_bn(3, 16, 3, 2)
        self.cells = nn.ModuleList([NasCell(16, 16, 8), NasCell(16, 32, 8), NasCell(32, 32, 8)])
        self.head = Classifier(32)

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.head(F.relu(last))


class Siamese(nn.Module):
    """One tower over both images; the distance between their descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(conv_bn(1, 16, 3, 2), conv_bn(16, 32, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(32, 24)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.fc(self.tower(left)), self.fc(self.tower(right))
        return F.pairwise_distance(a, b), F.cosine_similarity(a, b)


class BilinearPooling(nn.Module):
    """The outer product of two branches' channels, flattened into a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, 16, 3, 2), conv_bn(16, 16), conv_bn(16, 8)
        self.fc = nn.Linear(16 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, b = self.a(x).flatten(2), self.b(x).flatten(2)
        x = torch.bmm(a, b.transpose(1, 2)) / a.size(-1)
        x = x.view(x.size(0), -1)
        return self.fc(F.normalize(torch.sign(x) * torch.sqrt(torch.abs(x) + 1e-5), dim=1))


class PartialConvolution(nn.Module):
    """FasterNet: the first quarter of the channels is convolved, and written over itself in a copy."""

    def __init__(self, width: int):
        super().__init__()
        self.part, self.conv = width // 4, nn.Conv2d(width // 4, width // 4, 3, 1, 1, bias=False)
        self.mlp = nn.Sequential(conv_bn(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = x.clone()
        x[:, : self.part, :, :] = self.conv(x[:, : self.part, :, :])
        return shortcut + self.mlp(x)


def fasternet() -> nn.Module:
    return nn.Sequential(conv_bn(3, 32, 4, 4), PartialConvolution(32), PartialConvolution(32), Classifier(32))


class Octave(nn.Module):
    """OctConv: channels of full and of half size exchange through pools and upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.low = conv_bn(3, 24, 3, 2), nn.Conv2d(24, 8, 3, padding=1)
        self.hh, self.hl = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 8, 3, padding=1)
        self.lh, self.ll = nn.Conv2d(8, 24, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm_h, self.norm_l, self.fc = nn.BatchNorm2d(24), nn.BatchNorm2d(8), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        low = self.low(F.avg_pool2d(h, 2, 2))
        high = F.relu(self.norm_h(self.hh(h) + F.interpolate(self.lh(low), scale_factor=2, mode="nearest")))
        low = F.relu(self.norm_l(self.ll(low) + self.hl(F.avg_pool2d(h, 2, 2))))
        return self.fc(torch.cat([high.mean((2, 3)), low.mean((2, 3))], 1))


class CoordinateAttention(nn.Module):
    """Rows and columns pooled apart, joined along the places, split again: two gates."""

    def __init__(self, width: int):
        super().__init__()
        self.shared = conv_bn(width, 8, 1, act=nn.Hardswish())
        self.h, self.w = nn.Conv2d(8, width, 1), nn.Conv2d(8, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.size()
        y = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], dim=2)
        rows, columns = torch.split(self.shared(y), [height, width], dim=2)
        return x * self.h(rows).sigmoid() * self.w(columns.permute(0, 1, 3, 2)).sigmoid()


def coordinate_attention() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), CoordinateAttention(16), conv_bn(16, 32), CoordinateAttention(32), Classifier(32)
    )


class Involution(nn.Module):
    """A kernel a place, made from the place itself, over unfolded neighbours; channels share it in four groups."""

    def __init__(self, width: int):
        super().__init__()
        self.reduce, self.span = conv_bn(width, 8, 1), nn.Conv2d(8, 9 * 4, 1)
        self.groups, self.unfold = 4, nn.Unfold(3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        kernel = self.span(self.reduce(x)).view(b, self.groups, 9, h, w).unsqueeze(2)
        patches = self.unfold(x).view(b, self.groups, c // self.groups, 9, h, w)
        return (kernel * patches).sum(dim=3).view(b, c, h, w)


def involution() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), Involution(16), nn.BatchNorm2d(16), nn.ReLU(), conv_bn(16, 24, 1), Classifier(24)
    )


class LargeKernelAttention(nn.Module):
    """VAN: depthwise, dilated depthwise and 1×1 in a row make a gate for their own input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv_bn(3, 24, 3, 2), nn.BatchNorm2d(24)
        self.project1, self.project2, self.point = (nn.Conv2d(24, 24, 1) for _ in range(3))
        self.conv, self.spatial = nn.Conv2d(24, 24, 5, 1, 2, 1, 24), nn.Conv2d(24, 24, 7, 1, 9, 3, 24)
        self.scale, self.head = nn.Parameter(0.1 * torch.ones(24)), Classifier(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.gelu(self.project1(self.norm(x)))
        y = self.project2(y.clone() * self.point(self.spatial(self.conv(y))))
        return self.head(x + self.scale[:, None, None] * y)


class SpatialTransformer(nn.Module):
    """A small network turns and shifts the image before another sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.localise = nn.Sequential(nn.Conv2d(1, 8, 7), nn.MaxPool2d(2), nn.ReLU())
        self.theta = nn.Linear(8 * 11 * 11, 6)
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 5), nn.Conv2d(16, 24, 5)
        self.drop, self.fc1, self.fc2 = nn.Dropout2d(), nn.Linear(24 * 4 * 4, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(self.localise(x).view(-1, 8 * 11 * 11)).view(-1, 2, 3)
        x = F.grid_sample(x, F.affine_grid(theta, x.size(), align_corners=False), align_corners=False)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2)).view(-1, 384)
        return self.fc2(F.relu(self.fc1(x)))


TABLE: Table = {
    "densenet": (densenet, image()),
    "dpn": (dpn, image()),
    "vovnet": (vovnet, image()),
    "xception": (xception, image()),
    "mixnet": (mixnet, image()),
    "nasnet": (NasNet, image()),
    "siamese": (Siamese, both(image(1, 16), image(1, 16))),
    "bilinear_pooling": (BilinearPooling, image(3, 16)),
    "fasternet": (fasternet, image()),
    "octave": (Octave, image()),
    "coordinate_attention": (coordinate_attention, image()),
    "involution": (involution, image()),
    "large_kernel_attention": (LargeKernelAttention, image()),
    "spatial_transformer": (SpatialTransformer, image(1, 28)),
}

"""Plain stacks and the first networks with branches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, Table, conv_bn, floats, image


def lenet_300() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


class LeNet5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        x = x.view(-1, 16 * 5 * 5)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


class AlexNet(nn.Module):
    """Grouped convolutions of the two-GPU original; pooling to 2×2 fixed, then three linears."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2), nn.ReLU(inplace=True), nn.LocalResponseNorm(5, k=2.0), nn.MaxPool2d(3, 2),
            nn.Conv2d(24, 48, 5, padding=2, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(64, 32, 3, padding=1, groups=2), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(32 * 2 * 2, 64), nn.ReLU(inplace=True),
            nn.Dropout(), nn.Linear(64, 64), nn.ReLU(inplace=True), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def zfnet() -> nn.Module:
    """Overlapping max pools with ceil mode; no norm."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 7, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(24, 32, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 3 * 3, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10),
    )  # fmt: skip


class Vgg(nn.Module):
    """Ends in 2×2 maps: each channel owns four neighbouring inputs of the first linear."""

    def __init__(self, norm: bool):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (16, "M", 32, "M", 48, 48, "M", 64, "M"):
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(inputs, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(64 * 2 * 2, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


def network_in_network() -> nn.Module:
    """The last convolution has a channel a class: pooled, it is the output."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 5, padding=2), nn.ReLU(), nn.Conv2d(24, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1), nn.Dropout(0.5),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 10, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def all_convolutional() -> nn.Module:
    """Strided convolutions instead of pools, and activations of every kind."""
    layers: list[nn.Module] = []
    widths = (3, 16, 24, 32, 32)
    acts = (nn.LeakyReLU(0.1), nn.PReLU(24), nn.ELU(), nn.Softplus())
    for i, act in enumerate(acts):
        layers += [nn.Conv2d(widths[i], widths[i + 1], 3, 1 + i % 2, 1), act]
    return nn.Sequential(*layers, nn.Conv2d(32, 10, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten(1))


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.squeeze(x))
        return torch.cat([self.act(self.expand1x1(x)), self.act(self.expand3x3(x))], 1)


def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(16, 8, 16), Fire(32, 8, 16), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(32, 16, 24),
        nn.Dropout(0.5), nn.Conv2d(48, 10, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(),
    )  # fmt: skip


class SqueezeNetBypass(nn.Module):
    """Fire modules with a residual add over a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(inplace=True))
        self.fire1, self.fire2, self.fire3 = Fire(32, 8, 16), Fire(32, 8, 16), Fire(32, 8, 24)
        self.head = nn.Conv2d(48, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.fire1(x) + x
        x = x + self.fire2(x)
        return self.head(self.fire3(x)).mean([2, 3])


class Inception(nn.Module):
    """Four branches of different widths, concatenated in order."""

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int):
        super().__init__()
        self.branch1 = conv_bn(inputs, one, 1)
        self.branch2 = nn.Sequential(conv_bn(inputs, three[0], 1), conv_bn(three[0], three[1], 3))
        self.branch3 = nn.Sequential(conv_bn(inputs, five[0], 1), conv_bn(five[0], five[1], 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_bn(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def googlenet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True),
        Inception(16, 8, (8, 16), (8, 8), 8), Inception(40, 16, (8, 24), (8, 16), 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10),
    )  # fmt: skip


class Auxiliary(nn.Module):
    """GoogLeNet's second classifier, half way up: two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.middle, self.late = Inception(16, 8, (8, 16), (8, 8), 8), Inception(40, 16, (8, 24), (8, 16), 8)
        self.aux_conv, self.aux_fc = conv_bn(40, 16, 1), nn.Linear(16 * 4 * 4, 10)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.middle(self.stem(x))
        aux = self.aux_conv(F.adaptive_avg_pool2d(x, (4, 4)))
        x = self.late(F.max_pool2d(x, 2))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)), self.aux_fc(aux.flatten(1))


class Rectangle(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs, eps=0.001), nn.ReLU(inplace=True))


class InceptionC(nn.Module):
    """Inception-v3's factorised 7×1 and 1×7 convolutions."""

    def __init__(self, inputs: int, middle: int):
        super().__init__()
        self.one = conv_bn(inputs, 16, 1)
        self.seven = nn.Sequential(
            conv_bn(inputs, middle, 1), Rectangle(middle, middle, (1, 7)), Rectangle(middle, 16, (7, 1))
        )
        self.pool = conv_bn(inputs, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        return torch.cat([self.one(x), self.seven(x), self.pool(pooled)], 1)


class InceptionE(nn.Module):
    """Branches that fork again at their ends: a concatenation inside a concatenation."""

    def __init__(self, inputs: int):
        super().__init__()
        self.one, self.stem = conv_bn(inputs, 8, 1), conv_bn(inputs, 16, 1)
        self.wide, self.tall = Rectangle(16, 16, (1, 3)), Rectangle(16, 16, (3, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return torch.cat([self.one(x), torch.cat([self.wide(y), self.tall(y)], 1)], 1)


class Reduction(nn.Module):
    """Strided convolution beside a max pool that keeps the input's channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = conv_bn(inputs, outputs, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), F.max_pool2d(x, kernel_size=3, stride=2, padding=1)], 1)


def inception_v3() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), InceptionC(16, 8), Reduction(40, 24), InceptionE(64), Classifier(40)
    )  # fmt: skip


class InceptionResNet(nn.Module):
    """Concatenated branches projected back by a 1×1 and added with a scale of 0.17."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32, 3, 2)
        self.branches = nn.ModuleList(
            [conv_bn(32, 8, 1), nn.Sequential(conv_bn(32, 8, 1), conv_bn(8, 16)), conv_bn(32, 8, 5)]
        )
        self.up, self.head = nn.Conv2d(32, 32, 1), Classifier(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + 0.17 * self.up(torch.cat([branch(x) for branch in self.branches], dim=1)))
        return self.head(x)


class Maxout(nn.Module):
    """Pairs of channels compete: view to (groups, pieces), then max."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(16, 48, 3, 2, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x.view(x.shape[0], 16, 2, 16, 16).max(dim=2)[0]
        a, b = self.conv2(x).chunk(2, 1)
        return self.fc(torch.maximum(a, b).mean(dim=(-2, -1)))


TABLE: Table = {
    "lenet_300": (lenet_300, image(1, 28)),
    "lenet5": (LeNet5, image(1, 32)),
    "alexnet": (AlexNet, image()),
    "zfnet": (zfnet, image()),
    "vgg": (lambda: Vgg(norm=False), image()),
    "vgg_bn": (lambda: Vgg(norm=True), image()),
    "network_in_network": (network_in_network, image()),
    "all_convolutional": (all_convolutional, image()),
    "squeezenet": (squeezenet, image()),
    "squeezenet_bypass": (SqueezeNetBypass, image()),
    "googlenet": (googlenet, image()),
    "googlenet_auxiliary": (Auxiliary, image()),
    "inception_v3": (inception_v3, image()),
    "inception_resnet": (InceptionResNet, image()),
    "maxout": (Maxout, floats(3, 32, 32)),
}

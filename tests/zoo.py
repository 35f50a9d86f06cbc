"""Small networks of many kinds, as plain functions: () -> (module, example inputs).

They stand for what users bring: every one exercises something that captures, passes or exporters get wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_sequences import einsum_attention, gru, lstm, masked, speech, text_cnn, tied, torch_encoder, vit

Made = tuple[nn.Module, Any]


def _conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def mlp() -> Made:
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 5)), torch.randn(3, 12)


class Cnn(nn.Module):
    """Batch norm, dropout, in-place ReLU, pooling, flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_conv(3, 8), nn.MaxPool2d(2), _conv(8, 12, stride=2), nn.Dropout2d(0.2))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12 * 4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.flatten(self.features(x), 1)))


def cnn() -> Made:
    return Cnn(), torch.randn(2, 3, 8, 8)


class Residual(nn.Module):
    """Residual adds written in place, a projection shortcut, the same block reused twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.down = nn.Conv2d(8, 16, 1, 2)
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            y = self.body(x)
            y += x
            x = F.relu_(y)
        return self.head(F.relu(self.wide(x) + self.down(x)).mean((2, 3)))


def residual() -> Made:
    return Residual(), torch.randn(3, 3, 8, 8)


def depthwise() -> Made:
    body = nn.Sequential(_conv(3, 8, 2), _conv(8, 8, groups=8), nn.Conv2d(8, 16, 1), nn.Hardswish(inplace=True))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)), torch.randn(2, 3, 12, 12)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv(3, 4, kernel=1), _conv(3, 6), nn.Sequential(_conv(3, 2), _conv(2, 3))])
        self.head = nn.Conv2d(4 + 6 + 3 + 3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, 1, 1)
        return self.head(torch.cat([*(b(x) for b in self.branches), pooled], 1)).amax((2, 3))


def inception() -> Made:
    return Inception(), torch.randn(2, 3, 6, 6)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_conv(1, 4), _conv(4, 8)])
        self.bottom = _conv(8, 8)
        self.up = nn.ModuleList([_conv(16, 4), _conv(8, 4)])
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], 1))
        return self.out(x)


def unet() -> Made:
    return UNet(), torch.randn(2, 1, 8, 8)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(3, 8)
        self.reduce, self.expand = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)), inplace=True)).sigmoid()
        return (x * gate).flatten(1).logsumexp(1)


def squeeze_excite() -> Made:
    return SqueezeExcite(), torch.randn(2, 3, 5, 5)


def other_norms() -> Made:
    layers = [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ELU(), nn.Conv2d(8, 4, 3),
              nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
              nn.Flatten(2), nn.LayerNorm(16), nn.RMSNorm(16)]  # fmt: skip
    return nn.Sequential(*layers), torch.randn(2, 3, 8, 8)


def decoder() -> Made:
    layers = [nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.BatchNorm2d(6),
              nn.LeakyReLU(0.1, inplace=True), nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1, groups=2),
              nn.PixelShuffle(2), nn.Tanh()]  # fmt: skip
    return nn.Sequential(nn.Linear(5, 32), *layers), torch.randn(3, 5)


class MultiInput(nn.Module):
    """Two images and numbers in, a dict with nested parts out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = nn.Conv2d(1, 4, 3), nn.Linear(3, 4)

    def forward(self, left: Tensor, right: Tensor, numbers: Tensor) -> dict[str, Any]:
        a, b = self.image(left).mean((2, 3)), self.image(right).mean((2, 3))
        return {"scores": a - b, "parts": [a, (b, None)], "extra": {"numbers": self.numbers(numbers)}}


def multi_input() -> Made:
    inputs = {"left": torch.randn(2, 1, 5, 5), "right": torch.randn(2, 1, 5, 5), "numbers": torch.randn(2, 3)}
    return MultiInput(), inputs


class Buffers(nn.Module):
    """A persistent, a non-persistent and an unregistered constant, one of them an index table."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("shift", torch.randn(6))
        self.register_buffer("order", torch.tensor([2, 0, 1, 5, 4, 3]), persistent=False)
        self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x) * self.scale + self.shift)[:, self.order]


def buffers() -> Made:
    return Buffers(), torch.randn(3, 6)


class NoGrad(nn.Module):
    """A branch without gradient, inside it one with."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.a(x).softmax(-1)
        return self.b(self.a(x)) * target + self.a(target).detach()


def no_grad() -> Made:
    return NoGrad(), torch.randn(3, 4)


class WritesIntoViews(nn.Module):
    """In-place writes into slices, columns, views and parts, read again through the whole and through other views."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.linear(x)
        columns = y.transpose(0, 1)
        y[:, 1:3] += 1.0
        y[:, 0] = x[:, 1]
        first, second = y[:, :4], y[:, 4:]
        second.mul_(2.0)
        y.view(-1, 2, 4)[:, 1].relu_()
        z = torch.zeros(x.shape[0], 4)
        z[:, ::2] = first[:, :2]
        return y, columns.sum(0), z * second


def writes_into_views() -> Made:
    return WritesIntoViews(), torch.randn(3, 8)


class StochasticDepth(nn.Module):
    """A Python branch on self.training around a random mask: the graph keeps the eval branch and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        if self.training:
            y = y * (torch.rand(x.shape[0], 1) < 0.8) / 0.8
        return self.second(x + y)


def stochastic_depth() -> Made:
    return StochasticDepth(), torch.randn(3, 6)


def weight_norm() -> Made:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3))
    return nn.Sequential(normed, nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)), torch.randn(2, 3, 8)


class StaticBatch(nn.Module):
    """The batch is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(3, 6)).reshape(3, 2, 2)


def static_batch() -> Made:
    return StaticBatch(), torch.randn(3, 6)


ZOO: dict[str, Callable[[], Made]] = {
    f.__name__: f
    for f in (
        mlp, cnn, residual, depthwise, inception, unet, lstm, gru, torch_encoder, vit, einsum_attention,
        squeeze_excite, other_norms, decoder, text_cnn, multi_input, tied, buffers, no_grad, writes_into_views,
        stochastic_depth, weight_norm, speech, static_batch, masked,
    )
}  # fmt: skip


def make(name: str, seed: int = 0) -> Made:
    """A network of the zoo by name, with seeded weights and inputs, in eval mode."""
    torch.manual_seed(seed)
    module, example = ZOO[name]()
    return module.eval(), example

"""Networks that hear: log-mel bands computed inside the network, a depthwise-separable CNN and a small Conformer.

The features are a convolution with fixed weights, so a file that holds the network holds them too, and every runtime
computes the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import glu, silu


class LogMel(nn.Module):
    """Waveform [n, samples] to log-mel bands [n, bands, frames], frames = (samples − window) // hop + 1.

    Power spectrum of Hann windows by convolution with the discrete Fourier basis, triangular bands evenly spaced on the
    mel scale 2595·log10(1 + Hz/700), natural logarithm of band power + 1e-6. window, hop: samples. low, high: Hz.
    """

    basis: Tensor
    bands: Tensor

    def __init__(self, rate: int, window: int, hop: int, bands: int, low: float, high: float):
        super().__init__()
        self.hop = hop
        bins = torch.arange(1, int(high * window / rate) + 1, dtype=torch.float64)
        time = torch.arange(window, dtype=torch.float64)
        angles = 2 * math.pi * bins[:, None] * time / window
        hann = 0.5 - 0.5 * torch.cos(2 * math.pi * time / window)
        basis = torch.cat([angles.cos(), angles.sin()]) * hann / hann.sum()
        self.register_buffer("basis", basis[:, None].float())
        self.register_buffer("bands", mel_bands(bins * rate / window, bands, low, high).float())

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = torch.conv1d(x[:, None], self.basis, stride=self.hop).chunk(2, 1)
        return torch.log(torch.matmul(self.bands, real * real + imaginary * imaginary) + 1e-6)


def mel_bands(hertz: Tensor, bands: int, low: float, high: float) -> Tensor:
    """Weights [bands, len(hertz)] of triangles that overlap by half, evenly spaced in mel from `low` to `high` Hz."""
    edges = torch.linspace(_mel(torch.tensor(low)), _mel(torch.tensor(high)), bands + 2, dtype=torch.float64)
    place = _mel(hertz)
    rise = (place - edges[:-2, None]) / (edges[1:-1, None] - edges[:-2, None])
    fall = (edges[2:, None] - place) / (edges[2:, None] - edges[1:-1, None])
    return torch.minimum(rise, fall).clamp(min=0)


def _mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)


def _pitch_bands(bands: int = 80) -> LogMel:
    """Narrow enough to tell the harmonics of a voice apart: 64 ms windows every 16 ms at 16 kHz, 60 to 3000 Hz."""
    return LogMel(rate=16_000, window=1024, hop=256, bands=bands, low=60.0, high=3000.0)


class DsCnn(nn.Module):
    """Depthwise-separable CNN for short sounds (Zhang et al. 2017, arXiv 1711.07128, section 3.4)."""

    def __init__(self, classes: int, width: int, blocks: int, bands: int = 80):
        super().__init__()
        self.features = _pitch_bands(bands)
        self.norm = nn.BatchNorm1d(bands)
        layers: list[nn.Module] = [*_activated(nn.Conv2d(1, width, 5, (2, 1), 2, bias=False))]
        for i in range(blocks):
            stride = (2, 2) if i % 2 else 1
            layers += _activated(nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False))
            layers += _activated(nn.Conv2d(width, width, 1, bias=False))
        self.body = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        bands = self.norm(self.features(x))[:, None]
        return self.head(self.dropout(self.pool(self.body(bands)).flatten(1)))


def _activated(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, norm (Gulati et al. 2020, arXiv 2005.08100,
    section 2), each in a residual branch that starts with a norm."""

    def __init__(self, width: int, heads: int, kernel: int, dropout: float):
        super().__init__()
        self.before = FeedForward(width, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.convolution = Convolution(width, kernel)
        self.after = FeedForward(width, dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.before(x)
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        x = x + self.dropout(self.convolution(x))
        x = x + 0.5 * self.after(x)
        return self.norm(x)


class FeedForward(nn.Module):
    """Norm, four times as wide, SiLU, back."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.narrow(self.dropout(silu(self.widen(self.norm(x))))))


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence [n, t, width] to itself."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, 2))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """Norm, gated 1×1, depthwise over time with batch norm, SiLU, 1×1."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = glu(self.gated(self.norm(x).transpose(1, 2)), 1)
        return self.out(silu(self.batch_norm(self.depthwise(y)))).transpose(1, 2)


class Conformer(nn.Module):
    """A small Conformer with learned absolute positions and mean pooling, for clips of one fixed length.

    frames: of the features; two convolutions of `stem` channels halve bands and keep time.
    """

    def __init__(self, classes: int, width: int, blocks: int, heads: int, frames: int, bands: int = 80, stem: int = 24):
        super().__init__()
        self.features = _pitch_bands(bands)
        self.norm = nn.BatchNorm1d(bands)
        self.first = nn.Sequential(*_activated(nn.Conv2d(1, stem, 3, (2, 1), 1, bias=False)))
        self.second = nn.Sequential(*_activated(nn.Conv2d(stem, stem, 3, (2, 1), 1, bias=False)))
        self.embed = nn.Linear(stem * (bands // 4), width)
        self.positions = nn.Parameter(torch.zeros(frames, width))
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*(ConformerBlock(width, heads, 9, 0.1) for _ in range(blocks)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(self.norm(self.features(x))[:, None]))  # [n, stem, bands/4, frames]
        y = self.embed(y.flatten(1, 2).transpose(1, 2)) + self.positions
        return self.head(self.blocks(self.dropout(y)).mean(1))


def ds_cnn(classes: int = 4, width: int = 64, blocks: int = 6) -> DsCnn:
    """DS-CNN for waveforms at 16 kHz of any length from 64 ms on."""
    return DsCnn(classes, width, blocks)


def conformer(
    classes: int = 4, samples: int = 10_240, width: int = 96, blocks: int = 3, heads: int = 4, stem: int = 24
) -> Conformer:
    """Conformer for waveforms [n, samples] at 16 kHz, samples >= 1024. stem: channels of the first convolutions."""
    return Conformer(classes, width, blocks, heads, frames=(samples - 1024) // 256 + 1, stem=stem)

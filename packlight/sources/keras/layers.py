"""Modules that PyTorch does not have as Keras means them; tensors are channels-first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONVOLUTIONS: dict[int, Callable[..., Any]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Callable[..., Any]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[int, Callable[..., Any]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOLS: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Do(nn.Module):
    """A function of tensors, with the name of a layer."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *values: Any) -> Any:
        return self.function(*values)


class Zeros(nn.Module):
    """Zeros at the borders as TensorFlow's "same" wants them: as many outputs as inputs ÷ stride, rounded up, and where
    the zeros are odd in number one more at the end."""

    def __init__(self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]):
        super().__init__()
        self.geometry = list(zip(kernel, stride, dilation, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, same_pads(x, self.geometry))


def same_pads(x: Tensor, geometry: Sequence[tuple[int, int, int]]) -> list[int]:
    """For `F.pad`: of the last axis first. geometry: kernel, stride, dilation of every spatial axis."""
    pads: list[int] = []
    for size, (kernel, stride, dilation) in zip(x.shape[2:], geometry, strict=True):
        reach = (kernel - 1) * dilation + 1
        total = max((math.ceil(int(size) / stride) - 1) * stride + reach - int(size), 0)
        pads = [total // 2, total - total // 2, *pads]
    return pads


class Pool(nn.Module):
    """Largest values or means of windows; zeros at the borders count for neither."""

    def __init__(self, largest: bool, kernel: Sequence[int], stride: Sequence[int], same: bool):
        super().__init__()
        self.largest, self.kernel, self.stride, self.same = largest, list(kernel), list(stride), same
        self.geometry = [(k, s, 1) for k, s in zip(kernel, stride, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        pads = same_pads(x, self.geometry) if self.same else []
        axes = len(self.kernel)
        if self.largest:
            x = F.pad(x, pads, value=-math.inf) if any(pads) else x
            return MAX_POOLS[axes](x, self.kernel, self.stride)
        pool = AVERAGE_POOLS[axes]
        if not any(pads):
            return pool(x, self.kernel, self.stride)
        full = pool(F.pad(torch.ones_like(x[:1, :1]), pads), self.kernel, self.stride)
        return pool(F.pad(x, pads), self.kernel, self.stride) / full


class Crop(nn.Module):
    """Of a transposed convolution without padding, what is left of "same": the inputs' sizes times the stride."""

    def __init__(self, kernel: Sequence[int], stride: Sequence[int]):
        super().__init__()
        self.over = [max(0, k - s) for k, s in zip(kernel, stride, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        for axis, over in enumerate(self.over, 2):
            x = x.narrow(axis, over // 2, x.shape[axis] - over)
        return x


class Attention(nn.Module):
    """Multi-head attention of [n, positions, features] without masks."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear, heads: int):
        super().__init__()
        self.query, self.key, self.value, self.output, self.heads = query, key, value, output, heads

    def forward(self, query: Tensor, value: Tensor, key: Tensor | None = None) -> Tensor:
        key = value if key is None else key
        parts = (self.query(query), self.key(key), self.value(value))
        q, k, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        return self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Scaled(nn.Module):
    """x · scale + shift, with vectors along the channels or numbers."""

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift  # type: ignore[operator]

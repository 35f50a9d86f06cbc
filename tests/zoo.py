"""Small networks of many kinds, as plain functions: () -> (module, example inputs).

They stand for what users bring: every one exercises something that captures, passes or exporters get wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from packlight.model import Model
from packlight.sources import from_module

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


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(tokens))
        return self.head(states[:, -1])


def lstm() -> Made:
    return Lstm(), torch.randint(0, 20, (3, 7))


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.gru(x)
        return self.head(states), last[0]


def gru() -> Made:
    return Gru(), torch.randn(2, 4, 5)


class TorchEncoder(nn.Module):
    """nn.TransformerEncoder with a padding mask and integer tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16, padding_idx=0)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(self.embed(tokens), src_key_padding_mask=mask)
        kept = (~mask).unsqueeze(-1)
        return self.head((hidden * kept).sum(1) / kept.sum(1).clamp(min=1))


def torch_encoder() -> Made:
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[1, 4:] = True
    return TorchEncoder(), (torch.randint(1, 30, (3, 6)), mask)


class Block(nn.Module):
    """Pre-norm attention with a fused qkv taken apart by view, permute and unbind."""

    def __init__(self, width: int = 16, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        x = x + self.proj(attended.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches, class token, position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16) * 0.1)
        self.position = nn.Parameter(torch.randn(1, 5, 16) * 0.1)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit() -> Made:
    return Vit(), torch.randn(2, 3, 8, 8)


class EinsumAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.register_buffer("causal", torch.tril(torch.ones(6, 6, dtype=torch.bool)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 4)) for f in (self.q, self.k, self.v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / 2
        weights = scores.masked_fill(~self.causal, float("-inf")).softmax(-1)
        return torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)


def einsum_attention() -> Made:
    return EinsumAttention(), torch.randn(2, 6, 8)


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


class TextCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.bag = nn.Embedding(25, 6), nn.EmbeddingBag(25, 6, mode="mean")
        self.convs = nn.ModuleList([nn.Conv1d(6, 4, k) for k in (2, 3)])
        self.head = nn.Linear(14, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).transpose(1, 2)
        pooled = [F.relu(c(x)).max(dim=-1).values for c in self.convs]
        return self.head(torch.cat([*pooled, self.bag(tokens)], -1))


def text_cnn() -> Made:
    return TextCnn(), torch.randint(0, 25, (3, 6))


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


class Tied(nn.Module):
    """One matrix embeds and un-embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).tanh())


def tied() -> Made:
    return Tied(), torch.randint(0, 11, (2, 5))


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


class Speech(nn.Module):
    """Log-mel features from raw sound inside the network, then 1-d convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        self.register_buffer("mel", torch.rand(8, 17))
        last = nn.Conv1d(6, 6, 3, 1, 1, groups=3)
        self.body = nn.Sequential(nn.Conv1d(8, 6, 3, 2, 1), nn.BatchNorm1d(6), nn.ReLU6(), last)
        self.head = nn.Linear(6, 4)

    def forward(self, sound: Tensor) -> Tensor:
        spectrum = torch.stft(sound, 32, 16, window=self.window, return_complex=True).abs() ** 2
        features = torch.log(self.mel @ spectrum + 1e-6)
        return self.head(self.body(features).mean(-1))


def speech() -> Made:
    return Speech(), torch.randn(2, 160)


class StaticBatch(nn.Module):
    """The batch is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(3, 6)).reshape(3, 2, 2)


def static_batch() -> Made:
    return StaticBatch(), torch.randn(3, 6)


class Masked(nn.Module):
    """Integer ids, an integer attention mask and a boolean one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 2)

    def forward(self, ids: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        x = self.embed(ids) * mask.unsqueeze(-1)
        x = torch.where(keep.unsqueeze(-1), x, torch.zeros_like(x))
        positions = torch.arange(ids.shape[1], device=ids.device) % 2 == 0
        return self.head((x * positions[:, None]).sum(1))


def masked() -> Made:
    ids = torch.randint(0, 16, (2, 5))
    return Masked(), {"ids": ids, "mask": (ids > 3).long(), "keep": ids < 12}


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


@dataclass(frozen=True)
class Captured:
    """module: with one submodule in train mode, on purpose. before: its state and flags before the capture."""

    module: nn.Module
    example: Any
    model: Model
    before: dict[str, Any]

    def fresh(self) -> nn.Module:
        """A copy of the module, in eval mode, that a test may change."""
        return copy.deepcopy(self.module).eval()


def state_of(module: nn.Module) -> dict[str, Any]:
    """Everything about a module that a capture must not change."""
    return {
        "tensors": {n: t.clone() for n, t in module.state_dict().items()},
        "training": [m.training for m in module.modules()],
        "kinds": [(type(p), p.device, p.requires_grad, p.grad) for p in module.parameters()],
        "random": torch.get_rng_state(),
    }


@cache
def captured(name: str) -> Captured:
    """A network of the zoo with its Model, captured once a session."""
    module, example = make(name)
    last = list(module.modules())[-1]
    last.train()
    before = state_of(module)
    return Captured(module, example, from_module(module, example), before)


def call(network: Any, example: Any) -> Any:
    """Call a module or a Model the way its example inputs are given."""
    if isinstance(example, dict):
        return network(**example)
    return network(*example) if isinstance(example, tuple) else network(example)


def resized(example: Any, batch: int) -> Any:
    """Example inputs with another batch size, made by repetition and cutting."""
    return tree_map(lambda t: t[torch.arange(batch) % len(t)], example)


def flat(outputs: Any) -> list[Tensor]:
    """The tensors of nested outputs, in order."""
    return [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]

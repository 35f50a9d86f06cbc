"""Small networks over text, sound, patches and time, for `zoo`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = tuple[nn.Module, Any]


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
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
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

"""Tokens mixed by something else than the softmax of products, and what replaces the usual MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.language import RmsNorm
from architectures.parts import Classifier, Table, image, tokens
from architectures.vision import Mlp, Pooled


class MixerBlock(nn.Module):
    """One MLP over the patches by transposing, one over the channels."""

    def __init__(self, width: int, patches: int):
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(width), Mlp(patches, 24)
        self.norm2, self.channels = nn.LayerNorm(width), Mlp(width, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Affine(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class ResMlpBlock(nn.Module):
    """Affine instead of norm, a linear across patches, scales on both branches."""

    def __init__(self, width: int, patches: int):
        super().__init__()
        self.norm1, self.patch = Affine(width), nn.Linear(patches, patches)
        self.norm2, self.mlp = Affine(width), Mlp(width, 64)
        self.ls1, self.ls2 = nn.Parameter(0.3 * torch.ones(width)), nn.Parameter(0.3 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1 * self.patch(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.ls2 * self.mlp(self.norm2(x))


class GmlpBlock(nn.Module):
    """Half of the channels, normed and mixed across patches by a 1×1 Conv1d, gates the other half."""

    def __init__(self, width: int, patches: int):
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(width), nn.Linear(width, 96), nn.Linear(48, width)
        self.gate_norm, self.spatial = nn.LayerNorm(48), nn.Conv1d(patches, patches, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.inner(self.norm(x))).chunk(2, dim=-1)
        return x + self.outer(u * self.spatial(self.gate_norm(v)))


class PoolBlock(nn.Module):
    """PoolFormer: average pooling minus the input mixes; one-group norms, 1×1 convolutions, layer scales."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.mlp = nn.Sequential(nn.Conv2d(width, 64, 1), nn.GELU(), nn.Conv2d(64, width, 1))
        self.scale1, self.scale2 = nn.Parameter(0.3 * torch.ones(width)), nn.Parameter(0.3 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.scale1.unsqueeze(-1).unsqueeze(-1) * (self.pool(y) - y)
        return x + self.scale2.unsqueeze(-1).unsqueeze(-1) * self.mlp(self.norm2(x))


def poolformer() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 7, 4, 2), PoolBlock(24), nn.Conv2d(24, 32, 3, 2, 1), PoolBlock(32), Classifier(32)
    )


class LinearAttention(nn.Module):
    """Keys times values first, by einsum, with elu + 1 as feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(50, 32), nn.LayerNorm(32), nn.Linear(32, 4)
        self.qkv, self.out = nn.Linear(32, 96, bias=False), nn.Linear(32, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (y.unflatten(-1, (4, 8)) for y in self.qkv(self.norm(x)).chunk(3, -1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        context = torch.einsum("blhm,blhd->bhmd", k, v)
        z = 1 / (torch.einsum("blhm,bhm->blh", q, k.sum(dim=1)) + 1e-6)
        x = x + self.out(torch.einsum("blhm,bhmd,blh->blhd", q, context, z).flatten(2))
        return self.head(x.mean(1))


class FNet(nn.Module):
    """Fourier transforms along tokens and channels mix; there is nothing learnt in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Embedding(50, 32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.ff, self.head = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)), nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = self.norm1(x + torch.fft.fft2(x, dim=(-1, -2)).real)
        return self.head(self.norm2(x + self.ff(x))[:, 0])


class Mamba(nn.Module):
    """A selective state space, its scan written out over eight steps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.in_proj = nn.Embedding(50, 16), RmsNorm(16), nn.Linear(16, 64, bias=False)
        self.conv1d = nn.Conv1d(32, 32, 4, padding=3, groups=32)
        self.x_proj, self.dt_proj = nn.Linear(32, 4 + 2 * 8, bias=False), nn.Linear(4, 32)
        self.A_log, self.D = nn.Parameter(torch.log(torch.arange(1.0, 9.0)).repeat(32, 1)), nn.Parameter(torch.ones(32))
        self.out_proj, self.head = nn.Linear(32, 16, bias=False), nn.Linear(16, 50, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        residual = self.embed(tokens)
        x, z = self.in_proj(self.norm(residual)).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., :8].transpose(1, 2))
        dt, B, C = torch.split(self.x_proj(x), [4, 8, 8], dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        decay = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.A_log))
        enter = dt.unsqueeze(-1) * B.unsqueeze(2) * x.unsqueeze(-1)
        state, ys = torch.zeros_like(enter[:, 0]), []
        for t in range(8):
            state = decay[:, t] * state + enter[:, t]
            ys.append(torch.einsum("bdn,bn->bd", state, C[:, t]))
        y = (torch.stack(ys, dim=1) + x * self.D) * F.silu(z)
        return self.head(residual + self.out_proj(y))


class SoftExperts(nn.Module):
    """Every expert's MLP runs as one batched product over stacked weights; a softmax weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router = nn.Embedding(50, 24), nn.Linear(24, 3)
        self.w1, self.w2 = nn.Parameter(0.2 * torch.randn(3, 24, 40)), nn.Parameter(0.2 * torch.randn(3, 40, 24))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        hidden = F.relu(torch.einsum("btd,edh->beth", x, self.w1))
        made = torch.matmul(hidden, self.w2)
        weights = F.softmax(self.router(x), dim=-1).permute(0, 2, 1).unsqueeze(-1)
        return self.head(self.norm(x + (weights * made).sum(dim=1)).max(dim=1).values)


class Adapters(nn.Module):
    """LoRA beside a frozen linear, and a bottleneck adapter behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.frozen = nn.Embedding(50, 32), nn.Linear(32, 32).requires_grad_(False)
        self.lora_a, self.lora_b = nn.Parameter(0.1 * torch.randn(4, 32)), nn.Parameter(0.1 * torch.randn(32, 4))
        self.down, self.up, self.head = nn.Linear(32, 8), nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = F.gelu(self.frozen(x) + (x @ self.lora_a.T @ self.lora_b.T) * 0.5)
        x = x + self.up(F.relu(self.down(x)))
        return self.head(x.mean(-2))


class Linformer(nn.Module):
    """Keys and values shortened from 12 tokens to 4 by a learnt matrix along the tokens, shared by both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(50, 32), nn.LayerNorm(32), nn.Linear(32, 4)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(32, 32) for _ in range(4))
        self.shorten = nn.Parameter(0.3 * torch.randn(12, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.norm(x)
        k, v = (torch.einsum("bnd,nk->bkd", f(y), self.shorten) for f in (self.to_k, self.to_v))
        q, k, v = (z.reshape(z.shape[0], -1, 4, 8).transpose(1, 2) for z in (self.to_q(y), k, v))
        weights = torch.einsum("bhnd,bhkd->bhnk", q, k).mul(8**-0.5).softmax(dim=-1)
        y = torch.einsum("bhnk,bhkd->bhnd", weights, v).transpose(1, 2).flatten(-2)
        return self.head((x + self.to_out(y)).amax(1))


TABLE: Table = {
    "mlp_mixer": (lambda: Pooled(32, MixerBlock(32, 16), MixerBlock(32, 16)), image()),
    "resmlp": (lambda: Pooled(32, ResMlpBlock(32, 16), ResMlpBlock(32, 16)), image()),
    "gmlp": (lambda: Pooled(32, GmlpBlock(32, 16), GmlpBlock(32, 16)), image()),
    "poolformer": (poolformer, image()),
    "linear_attention": (LinearAttention, tokens(12)),
    "fnet": (FNet, tokens(12)),
    "mamba": (Mamba, tokens(8)),
    "soft_experts": (SoftExperts, tokens(12)),
    "adapters": (Adapters, tokens(12)),
    "linformer": (Linformer, tokens(12)),
}

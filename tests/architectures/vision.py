"""Attention over patches and pixels of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, Table, both, conv_bn, image, tokens


class Mlp(nn.Sequential):
    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width))


class Attention(nn.Module):
    """Fused qkv: reshape, permute, unbind; the product written out."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attn = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))


class Block(nn.Module):
    """Pre-norm; attention may be replaced by another mixer of tokens."""

    def __init__(self, width: int, mixer: nn.Module, hidden: int = 64):
        super().__init__()
        self.norm1, self.mixer = nn.LayerNorm(width), mixer
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """A strided convolution, then a token a place."""

    def __init__(self, width: int, size: int = 8):
        super().__init__()
        self.proj = nn.Conv2d(3, width, size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.cls = Patches(32), nn.Parameter(torch.randn(1, 1, 32) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 17, 32) * 0.02)
        self.blocks = nn.Sequential(Block(32, Attention(32, 4)), Block(32, Attention(32, 4)))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class TorchVit(nn.Module):
    """As torchvision writes it, with nn.MultiheadAttention called for its output alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_proj, self.position = nn.Conv2d(3, 32, 8, 8), nn.Parameter(torch.randn(1, 16, 32) * 0.02)
        self.ln1, self.ln2 = nn.LayerNorm(32, eps=1e-6), nn.LayerNorm(32, eps=1e-6)
        self.attention, self.mlp = nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True), Mlp(32, 64)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        n = image.shape[0]
        x = self.conv_proj(image).reshape(n, 32, 16).permute(0, 2, 1) + self.position
        y = self.ln1(x)
        y, _ = self.attention(y, y, y, need_weights=False)
        x = x + y
        return self.head((x + self.mlp(self.ln2(x))).mean(dim=1))


class Deit(nn.Module):
    """A distillation token beside the class token, two heads, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches(32)
        self.cls, self.dist = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 1, 32))
        self.position, self.gamma = nn.Parameter(torch.zeros(1, 18, 32)), nn.Parameter(0.5 * torch.ones(32))
        self.norm1, self.attention, self.block = nn.LayerNorm(32), Attention(32, 4), Block(32, Attention(32, 2))
        self.norm, self.head, self.head_dist = nn.LayerNorm(32), nn.Linear(32, 10), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patches(x)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), self.dist.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.position
        x = x + self.gamma * self.attention(self.norm1(x))
        x = self.norm(self.block(x))
        return self.head(x[:, 0]), self.head_dist(x[:, 1])


class WindowAttention(nn.Module):
    """Attention in 4×4 windows with a learnt bias looked up by relative position."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window, self.scale = heads, window, (width // heads) ** -0.5
        self.table = nn.Parameter(0.02 * torch.randn((2 * window - 1) ** 2, heads))
        places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        relative = places[:, None] - places[None] + window - 1
        self.register_buffer("index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B_, N, C = x.shape
        qkv = self.qkv(x).reshape(B_, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(N, N, -1).permute(2, 0, 1).contiguous()
        attn = attn + bias.unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            attn = attn.view(-1, windows, self.heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.heads, N, N)
        x = (attn.softmax(-1) @ v).transpose(1, 2).reshape(B_, N, C)
        return self.proj(x)


class SwinBlock(nn.Module):
    """Rolls the map for every second block, takes it apart into windows, puts it together and rolls back."""

    def __init__(self, width: int, size: int, window: int, shift: int):
        super().__init__()
        self.size, self.window, self.shift = size, window, shift
        self.norm1, self.attn = nn.LayerNorm(width), WindowAttention(width, 4, window)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 2 * width)
        mask = None
        if shift:
            regions = torch.zeros(1, size, size, 1)
            cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
            for i, rows in enumerate(cuts):
                for j, columns in enumerate(cuts):
                    regions[:, rows, columns] = 3 * i + j
            labels = self.partition(regions).view(-1, window * window)
            mask = (labels[:, None] != labels[:, :, None]) * -100.0
        self.register_buffer("mask", mask)

    def partition(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = x.view(B, H // self.window, self.window, W // self.window, self.window, C)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, self.window, self.window, C)

    def forward(self, x: Tensor) -> Tensor:
        H = W = self.size
        B, _, C = x.shape
        shortcut = x
        x = self.norm1(x).view(B, H, W, C)
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = self.attn(self.partition(x).view(-1, self.window * self.window, C), self.mask)
        x = windows.view(-1, H // self.window, W // self.window, self.window, self.window, C)
        x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, H, W, C)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x.view(B, H * W, C)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighbours' channels side by side, reduced to twice the width."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.size, self.norm = size, nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, _, C = x.shape
        x = x.view(B, self.size, self.size, C)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduction(self.norm(x.view(B, -1, 4 * C)))


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm0 = Patches(16, 4), nn.LayerNorm(16)
        self.layers = nn.Sequential(
            SwinBlock(16, 8, 4, 0), SwinBlock(16, 8, 4, 2), PatchMerging(16, 8), SwinBlock(32, 4, 4, 0)
        )
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.layers(self.norm0(self.patches(x))))
        return self.head(torch.flatten(F.adaptive_avg_pool1d(x.transpose(1, 2), 1), 1))


class Pooled(nn.Module):
    """Patches, blocks, norm, mean over the tokens, head."""

    def __init__(self, width: int, *blocks: nn.Module):
        super().__init__()
        self.body, self.head = nn.Sequential(Patches(width), *blocks, nn.LayerNorm(width)), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=1))


class ConvAttention(nn.Module):
    """CvT: depthwise convolutions project queries, and strided ones keys and values."""

    def __init__(self, width: int, size: int, heads: int = 2):
        super().__init__()
        self.size, self.heads = size, heads
        self.depthwise = nn.ModuleList([
            nn.Sequential(nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width))
            for stride in (1, 2, 2)
        ])  # fmt: skip
        self.linear = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        grid = x.transpose(1, 2).view(b, c, self.size, self.size)
        parts = [lin(dw(grid).flatten(2).transpose(1, 2)) for dw, lin in zip(self.depthwise, self.linear, strict=True)]
        q, k, v = (p.view(b, -1, self.heads, c // self.heads).transpose(1, 2) for p in parts)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class ReducedAttention(nn.Module):
    """PVT: keys and values, fused, from a map made smaller by a strided convolution."""

    def __init__(self, width: int, size: int, heads: int = 2):
        super().__init__()
        self.size, self.heads = size, heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.sr, self.norm = nn.Conv2d(width, width, 2, 2), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.heads, C // self.heads).permute(0, 2, 1, 3)
        x_ = x.permute(0, 2, 1).reshape(B, C, self.size, self.size)
        x_ = self.norm(self.sr(x_).reshape(B, C, -1).permute(0, 2, 1))
        kv = self.kv(x_).reshape(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        attn = (q @ kv[0].transpose(-2, -1)) * (C // self.heads) ** -0.5
        return self.proj((attn.softmax(dim=-1) @ kv[1]).transpose(1, 2).reshape(B, N, C))


class CrossCovariance(nn.Module):
    """XCiT: attention between channels; queries and keys normed along the tokens, a temperature a head."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads, self.temperature = heads, nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 4, 1).unbind(0)
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return self.proj((attn.softmax(dim=-1) @ v).permute(0, 3, 1, 2).reshape(B, N, C))


class MobileVit(nn.Module):
    """Convolutions, a transformer over pixels of equal place in 2×2 patches, fusion with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.local = conv_bn(3, 16, 3, 2), nn.Sequential(conv_bn(16, 16), nn.Conv2d(16, 24, 1))
        self.block, self.norm = Block(24, Attention(24, 2), 48), nn.LayerNorm(24)
        self.project, self.fuse, self.head = conv_bn(24, 16, 1), conv_bn(32, 16), Classifier(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.stem(x), 2)
        y = self.local(x)
        B, C, H, W = y.shape
        nh, nw = H // 2, W // 2
        y = y.reshape(B * C * nh, 2, nw, 2).transpose(1, 2).reshape(B, C, nh * nw, 4)
        y = self.norm(self.block(y.transpose(1, 3).reshape(B * 4, nh * nw, C)))
        y = y.contiguous().view(B, 4, nh * nw, -1).transpose(1, 3).reshape(B * C * nh, nw, 2, 2)
        y = y.transpose(1, 2).reshape(B, C, H, W)
        return self.head(self.fuse(torch.cat((x, self.project(y)), dim=1)))


class Perceiver(nn.Module):
    """Learnt latents attend to the pixels with their places, then to themselves, twice with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.place = nn.Parameter(torch.randn(8, 32) * 0.1), nn.Parameter(torch.randn(256, 13) * 0.1)
        self.norm_latent, self.norm_context = nn.LayerNorm(32), nn.LayerNorm(16)
        self.to_q, self.to_kv = nn.Linear(32, 24, bias=False), nn.Linear(16, 48, bias=False)
        self.to_out, self.block, self.head = nn.Linear(24, 32), Block(32, Attention(32, 4)), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        context = x.flatten(2).permute(0, 2, 1)
        context = self.norm_context(torch.cat([context, self.place.unsqueeze(0).expand(b, -1, -1)], dim=-1))
        x = self.latents.unsqueeze(0).repeat(b, 1, 1)
        k, v = self.to_kv(context).chunk(2, dim=-1)
        for _ in range(2):
            weights = torch.einsum("bid,bjd->bij", self.to_q(self.norm_latent(x)), k) * 24**-0.5
            x = x + self.to_out(torch.einsum("bij,bjd->bid", weights.softmax(dim=-1), v))
            x = self.block(x)
        return self.head(x.mean(dim=-2))


class Clip(nn.Module):
    """Two towers, projected and normed; similarities of the pairs at a learnt temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.visual, self.ln_visual = Patches(32), Block(32, Attention(32, 4)), nn.LayerNorm(32)
        self.embed, self.position = nn.Embedding(50, 24), nn.Parameter(torch.randn(12, 24) * 0.01)
        self.textual, self.ln_text = Block(24, Attention(24, 2)), nn.LayerNorm(24)
        self.image_projection = nn.Parameter(32**-0.5 * torch.randn(32, 16))
        self.text_projection = nn.Parameter(24**-0.5 * torch.randn(24, 16))
        self.logit_scale = nn.Parameter(torch.tensor(2.6))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        i = self.ln_visual(self.visual(self.patches(image)))[:, 0, :] @ self.image_projection
        t = self.ln_text(self.textual(self.embed(text) + self.position))[:, -1] @ self.text_projection
        i, t = i / i.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
        return self.logit_scale.exp() * (i * t).sum(1), i


class Detr(nn.Module):
    """Convolutions, an encoder-decoder transformer with object queries, rows and columns as positions."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2))
        self.conv, self.query = nn.Conv2d(24, 32, 1), nn.Parameter(torch.rand(6, 32))
        self.row, self.column = nn.Parameter(torch.rand(10, 16)), nn.Parameter(torch.rand(10, 16))
        self.transformer = nn.Transformer(32, 4, 1, 1, 48, batch_first=True)
        self.classes, self.boxes = nn.Linear(32, 6), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv(self.backbone(x))
        H, W = h.shape[-2:]
        column, row = self.column[:W].unsqueeze(0).repeat(H, 1, 1), self.row[:H].unsqueeze(1).repeat(1, W, 1)
        position = torch.cat([column, row], dim=-1).flatten(0, 1).unsqueeze(0)
        queries = self.query.unsqueeze(0).expand(h.size(0), -1, -1)
        h = self.transformer(position + 0.1 * h.flatten(2).permute(0, 2, 1), queries)
        return self.classes(h), self.boxes(h).sigmoid()


class Levit(nn.Module):
    """Linears with batch norm over flattened tokens; keys narrower than values; hard-swish; a bias a distance."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2, act=nn.Hardswish()), conv_bn(16, 32, 3, 4))
        self.qkv, self.bn_qkv = nn.Linear(32, 2 * (8 + 8 + 16), bias=False), nn.BatchNorm1d(64)
        self.proj, self.bn_proj = nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32)
        self.biases, self.head = nn.Parameter(0.1 * torch.randn(2, 16)), nn.Linear(32, 10)
        places = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        distance = (places[:, None] - places[None]).abs()
        self.register_buffer("index", distance[..., 0] * 4 + distance[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        B, N, C = x.shape
        qkv = self.qkv(x)
        qkv = self.bn_qkv(qkv.flatten(0, 1)).reshape_as(qkv)
        q, k, v = qkv.view(B, N, 2, 32).split([8, 8, 16], dim=3)
        q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        attn = (q @ k * 8**-0.5 + self.biases[:, self.index]).softmax(dim=-1)
        y = self.proj(F.hardswish((attn @ v).transpose(1, 2).reshape(B, N, C)))
        return self.head((x + self.bn_proj(y.flatten(0, 1)).reshape_as(y)).mean(1))


TABLE: Table = {
    "vit": (Vit, image()),
    "vit_torch_attention": (TorchVit, image()),
    "deit": (Deit, image()),
    "swin": (Swin, image()),
    "cvt": (lambda: Pooled(32, Block(32, ConvAttention(32, 4)), Block(32, ConvAttention(32, 4))), image()),
    "pvt": (lambda: Pooled(32, Block(32, ReducedAttention(32, 4)), Block(32, ReducedAttention(32, 4))), image()),
    "xcit": (lambda: Pooled(32, Block(32, CrossCovariance(32)), Block(32, CrossCovariance(32))), image()),
    "mobilevit": (MobileVit, image()),
    "perceiver": (Perceiver, image(3, 16)),
    "clip": (Clip, both(image(), tokens(12))),
    "detr": (Detr, image()),
    "levit": (Levit, image()),
}

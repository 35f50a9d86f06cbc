"""Transformers over tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Table, both, tokens


class TorchEncoder(nn.Module):
    """nn.TransformerEncoder, post-norm, its input scaled by √width and placed by sines."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.embed, self.encoder = nn.Embedding(50, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        angles = torch.arange(16)[:, None] * torch.exp(torch.arange(0, 32, 2) * (-math.log(10000.0) / 32))
        self.register_buffer("places", torch.stack((angles.sin(), angles.cos()), 2).flatten(1).unsqueeze(0))
        self.fc = nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) * math.sqrt(32) + self.places[:, : tokens.size(1)]
        return self.fc(self.encoder(x).mean(dim=1))


class TorchTransformer(nn.Module):
    """nn.Transformer, sequence first, with a causal mask for its target."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(50, 32), nn.Embedding(40, 32)
        self.transformer = nn.Transformer(32, 4, 1, 1, 48, norm_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(8), persistent=False)
        self.generator = nn.Linear(32, 40)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, wanted = self.source(source).transpose(0, 1), self.target(target).transpose(0, 1)
        return self.generator(self.transformer(memory, wanted, tgt_mask=self.mask, tgt_is_causal=True)).transpose(0, 1)


class BertLayer(nn.Module):
    """Separate q, k and v, each viewed as heads; post-norm."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.intermediate, self.shrink = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm2, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.size()[:-1], self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.size)
        scores = scores if mask is None else scores + mask
        context = torch.matmul(self.dropout(F.softmax(scores, dim=-1)), v).permute(0, 2, 1, 3).contiguous()
        context = context.view(*context.size()[:-2], self.heads * self.size)
        x = self.norm1(self.dropout(self.output(context)) + x)
        return self.norm2(self.dropout(self.shrink(F.gelu(self.intermediate(x)))) + x)


class Bert(nn.Module):
    """Word, place and type embeddings summed, a padding mask, a pooler; the masked-word head shares its matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.place, self.kind = nn.Embedding(50, 32), nn.Embedding(20, 32), nn.Embedding(2, 32)
        self.norm, self.layers = nn.LayerNorm(32, eps=1e-12), nn.ModuleList([BertLayer(32, 4, 64) for _ in range(2)])
        self.register_buffer("position_ids", torch.arange(20).expand((1, -1)), persistent=False)
        self.pooler, self.classifier = nn.Linear(32, 32), nn.Linear(32, 2)
        self.transform, self.bias = nn.Sequential(nn.Linear(32, 32), nn.GELU()), nn.Parameter(torch.zeros(50))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        places = self.position_ids[:, : input_ids.size(1)]
        x = self.word(input_ids) + self.place(places) + self.kind(torch.zeros_like(input_ids))
        x, mask = self.norm(x), (1.0 - attention_mask[:, None, None, :]) * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        words = F.linear(self.transform(x), self.word.weight, self.bias)
        return words, self.classifier(torch.tanh(self.pooler(x[:, 0])))


class Albert(nn.Module):
    """Embeddings narrower than the layers, and one layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.widen, self.layer = nn.Embedding(50, 16), nn.Linear(16, 32), BertLayer(32, 4, 48)
        self.head = nn.Linear(32, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.widen(self.word(input_ids))
        for _ in range(3):
            x = self.layer(x)
        return self.head(x[:, 0, :])


class GptBlock(nn.Module):
    """c_attn makes q, k and v at once; split by the width; a triangle of a buffer masks the future."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.width = heads, width
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.register_buffer("bias", torch.tril(torch.ones(20, 20)).view(1, 1, 20, 20))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(self.ln_1(x)).split(self.width, dim=2)
        q, k, v = (y.view(B, T, self.heads, C // self.heads).transpose(1, 2) for y in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = F.softmax(att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf")), dim=-1)
        x = x + self.c_proj((att @ v).transpose(1, 2).contiguous().view(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """The head is the embedding's matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(50, 32), nn.Embedding(20, 32)
        self.h, self.ln_f = nn.ModuleList([GptBlock(32, 4) for _ in range(2)]), nn.LayerNorm(32)
        self.lm_head = nn.Linear(32, 50, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor) -> Tensor:
        x = self.wte(idx) + self.wpe(torch.arange(0, idx.size(1)))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class RmsNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        kind = x.dtype
        x = x.to(torch.float32)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(kind)


def rotated(x: Tensor) -> Tensor:
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class LlamaBlock(nn.Module):
    """Rotary places, fewer heads for keys and values (repeated by expand and reshape), SwiGLU."""

    def __init__(self, width: int, heads: int, groups: int, hidden: int):
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.q_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, groups * self.size, bias=False)
        self.v_proj = nn.Linear(width, groups * self.size, bias=False)
        self.gate_proj, self.up_proj = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down_proj, self.norm1, self.norm2 = nn.Linear(hidden, width, bias=False), RmsNorm(width), RmsNorm(width)

    def repeated(self, x: Tensor) -> Tensor:
        b, h, t, d = x.shape
        copies = self.heads // self.groups
        return x[:, :, None, :, :].expand(b, h, copies, t, d).reshape(b, h * copies, t, d)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.size()
        y = self.norm1(x)
        q = self.q_proj(y).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.k_proj(y).view(b, t, self.groups, self.size).transpose(1, 2)
        v = self.v_proj(y).view(b, t, self.groups, self.size).transpose(1, 2)
        q, k = q * cos + rotated(q) * sin, k * cos + rotated(k) * sin
        y = F.scaled_dot_product_attention(q, self.repeated(k), self.repeated(v), is_causal=True)
        x = x + self.o_proj(y.transpose(1, 2).contiguous().view(b, t, -1))
        y = self.norm2(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens, self.norm = nn.Embedding(50, 32), RmsNorm(32)
        self.layers = nn.ModuleList([LlamaBlock(32, 4, 2, 48) for _ in range(2)])
        self.lm_head = nn.Linear(32, 50, bias=False)
        self.register_buffer("inv_freq", 1.0 / (10000 ** (torch.arange(0, 8, 2) / 8)), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed_tokens(input_ids)
        angles = torch.outer(torch.arange(input_ids.shape[1], dtype=torch.float32), self.inv_freq)
        angles = torch.cat((angles, angles), dim=-1)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        return self.lm_head(self.norm(x))


class MultiQuery(nn.Module):
    """Falcon: one key and value for all heads out of one fused linear, attention and MLP side by side, ALiBi."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(50, 32), nn.LayerNorm(32)
        self.fused, self.dense = nn.Linear(32, 32 + 2 * 8, bias=False), nn.Linear(32, 32, bias=False)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 50, bias=False)
        distance = torch.arange(12)[None, :] - torch.arange(12)[:, None]
        slopes = 2.0 ** -torch.arange(1, 5)[:, None, None]
        bias = (slopes * distance).masked_fill(distance > 0, float("-inf"))
        self.register_buffer("alibi", bias, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.norm(x)
        q, k, v = self.fused(y).split([32, 8, 8], dim=-1)
        q = q.unflatten(-1, (4, 8)).transpose(1, 2)
        scores = q @ k.unsqueeze(1).transpose(-1, -2) / 8**0.5 + self.alibi
        y = self.dense((scores.softmax(-1) @ v.unsqueeze(1)).transpose(1, 2).flatten(2)) + self.down(F.gelu(self.up(y)))
        return self.head(x + y)


class InterleavedHeads(nn.Module):
    """GPT-NeoX: q, k and v interleaved in each head by a view, rotary places on a part of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Embedding(50, 32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.query_key_value, self.dense = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp, self.head = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)), nn.Linear(32, 50)
        angles = torch.outer(torch.arange(12.0), 0.1 ** torch.arange(2)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotary(self, x: Tensor) -> Tensor:
        turned, kept = x[..., :4], x[..., 4:]
        return torch.cat((turned * self.cos + rotated(turned) * self.sin, kept), dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        qkv = self.query_key_value(self.norm1(x)).view(x.shape[0], 12, 4, 24).transpose(1, 2)
        q, k, v = qkv[..., :8], qkv[..., 8:16], qkv[..., 16:]
        y = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v, is_causal=True)
        y = self.dense(y.permute(0, 2, 1, 3).reshape(x.shape[0], 12, 32))
        return self.head(x + y + self.mlp(self.norm2(x)))


class T5Attention(nn.Module):
    """No biases, no scale; heads need not fill the width; a bias by bucket of distance where one is given."""

    def __init__(self, width: int, heads: int, size: int):
        super().__init__()
        self.heads, self.size = heads, size
        self.q, self.k, self.v = (nn.Linear(width, heads * size, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * size, width, bias=False)

    def forward(self, x: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (
            f(y).view(x.shape[0], -1, self.heads, self.size).transpose(1, 2)
            for f, y in ((self.q, x), (self.k, other), (self.v, other))
        )
        scores = torch.matmul(q, k.transpose(3, 2))
        if bias is not None:
            scores += bias
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        y = torch.matmul(weights, v).transpose(1, 2).contiguous().view(x.shape[0], -1, self.heads * self.size)
        return self.o(y)


class T5(nn.Module):
    """Encoder and decoder over one embedding; gated feed-forward in one, ReLU in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.buckets = nn.Embedding(50, 32), nn.Embedding(8, 4)
        self.encode, self.decode, self.cross = (T5Attention(32, 4, 12) for _ in range(3))
        self.norms = nn.ModuleList([RmsNorm(32) for _ in range(7)])
        self.wi_0, self.wi_1, self.wo = (nn.Linear(*s, bias=False) for s in ((32, 48), (32, 48), (48, 32)))
        self.wi, self.wo2 = nn.Linear(32, 64, bias=False), nn.Linear(64, 32, bias=False)
        distance = (torch.arange(10)[None, :] - torch.arange(10)[:, None]).clamp(-4, 3) + 4
        self.register_buffer("bucket", distance, persistent=False)
        self.register_buffer("future", torch.triu(torch.full((10, 10), -1e9), 1), persistent=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        n = self.norms
        bias = self.buckets(self.bucket).permute(2, 0, 1).unsqueeze(0)
        x = self.shared(source)
        y = n[0](x)
        x = x + self.encode(y, y, bias)
        y = n[1](x)
        x = n[2](x + self.wo(F.gelu(self.wi_0(y), approximate="tanh") * self.wi_1(y)))
        t = self.shared(target)
        y = n[3](t)
        t = t + self.decode(y, y, self.future)
        t = t + self.cross(n[4](t), x, None)
        t = n[6](t + self.wo2(F.relu(self.wi(n[5](t)))))
        return F.linear(t * 32**-0.5, self.shared.weight)


def _masked_tokens() -> tuple[Tensor, Tensor]:
    mask = torch.ones(2, 12)
    mask[1, 9:] = 0
    return torch.randint(0, 50, (2, 12)), mask


class GroupedQueries(nn.Module):
    """Keys and values repeated for their queries by repeat_interleave; queries and keys normed; a soft cap; baddbmm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(50, 32), nn.RMSNorm(32), nn.Linear(32, 50, bias=False)
        self.wq, self.wkv, self.wo = (nn.Linear(32, n, bias=False) for n in (32, 32, 32))
        self.q_norm, self.k_norm = nn.RMSNorm(8), nn.RMSNorm(8)
        self.register_buffer("mask", torch.triu(torch.full((10, 10), -1e4), 1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        bsz, seqlen, _ = x.shape
        y = self.norm(x)
        q = self.q_norm(self.wq(y).view(bsz, seqlen, 4, 8)).movedim(2, 1).reshape(-1, seqlen, 8)
        k, v = self.wkv(y).view(bsz, seqlen, 2, 2, 8).unbind(2)
        k, v = (torch.repeat_interleave(z, 2, dim=2) for z in (self.k_norm(k), v))
        k, v = (z.swapaxes(1, 2).reshape(-1, seqlen, 8) for z in (k, v))
        scores = torch.baddbmm(self.mask.expand(q.shape[0], -1, -1), q, k.mT, alpha=8**-0.5)
        scores = 30.0 * torch.tanh(scores / 30.0) + self.mask
        y = torch.bmm(F.softmax(scores, -1), v).view(bsz, 4, seqlen, 8).transpose(1, 2).reshape(bsz, seqlen, 32)
        return self.head(x + self.wo(y))


TABLE: Table = {
    "torch_encoder": (TorchEncoder, tokens()),
    "torch_transformer": (TorchTransformer, both(tokens(12), tokens(8, 40))),
    "bert": (Bert, _masked_tokens),
    "albert": (Albert, tokens(12)),
    "gpt": (Gpt, tokens(12)),
    "llama": (Llama, tokens(12)),
    "multi_query": (MultiQuery, tokens(12)),
    "gpt_neox": (InterleavedHeads, tokens(12)),
    "t5": (T5, both(tokens(10), tokens(10))),
    "grouped_queries": (GroupedQueries, tokens(10)),
}

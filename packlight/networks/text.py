"""Networks that read token ids: a six-layer BERT encoder for sentences, a small one and an LSTM that classify."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

_VOCABULARY = 30_522

# Names in the published file → names here; those of layer i sit between.
_RENAMED = (
    (r"embeddings\.word_embeddings\.", "words."), (r"embeddings\.position_embeddings\.", "positions."),
    (r"embeddings\.token_type_embeddings\.", "segments."), (r"embeddings\.LayerNorm\.", "norm."),
    (r"encoder\.layer\.", "layers."), (r"attention\.self\.", ""), (r"attention\.output\.dense\.", "out."),
    (r"attention\.output\.LayerNorm\.", "attention_norm."), (r"intermediate\.dense\.", "widen."),
    (r"output\.dense\.", "narrow."), (r"output\.LayerNorm\.", "norm."),
)  # fmt: skip


class EncoderLayer(nn.Module):
    """BERT's layer (Devlin et al. 2018, arXiv 1810.04805): attention and feed-forward, each with a norm behind it."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.attention_norm(x + self.out(mixed.transpose(1, 2).flatten(2)))
        return self.norm(x + self.narrow(gelu(self.widen(x))))


class SentenceEncoder(nn.Module):
    """Token ids and mask [n, t] to unit vectors [n, width]: BERT layers, the mean over tokens, L2 norm."""

    def __init__(self, width: int = 384, layers: int = 6, heads: int = 12, hidden: int = 1536, longest: int = 512):
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, width)
        self.positions = nn.Embedding(longest, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]] + self.segments.weight[0])
        real = mask.to(x.dtype)
        bias = ((1 - real) * -1e4)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        return normalize(masked_mean(x, real), dim=1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of [n, t, d] over the t whose mask [n, t] is 1."""
    weight = mask[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


class SentenceClassifier(nn.Module):
    """A sentence encoder and a linear head on its unit vectors, scaled so that a softmax over them can be sharp."""

    def __init__(self, encoder: SentenceEncoder, width: int, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(16 * self.encoder(ids, mask))


class LstmClassifier(nn.Module):
    """Embedding, a bidirectional LSTM, the mean of its outputs over the tokens, a linear head."""

    def __init__(self, classes: int, embedding: int, width: int):
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, embedding)
        self.dropout = nn.Dropout(0.3)
        self.lstm = nn.LSTM(embedding, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states, _ = self.lstm(self.dropout(self.words(ids)))
        return self.head(self.dropout(masked_mean(states, mask.to(states.dtype))))


class TransformerClassifier(nn.Module):
    """Word and position embeddings, BERT layers, the mean over the tokens, a linear head.

    longest: tokens. The rows of `positions` past a shorter sequence are not used. Embeddings start as BERT's (Devlin et
    al. 2018), with a standard deviation of 0.02.
    """

    def __init__(self, classes: int, width: int, layers: int, heads: int, longest: int):
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, width)
        self.positions = nn.Embedding(longest, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.1)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, 4 * width) for _ in range(layers))
        self.head = nn.Linear(width, classes)
        for embedding in (self.words, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]]))
        real = mask.to(x.dtype)
        bias = ((1 - real) * -1e4)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        return self.head(self.dropout(masked_mean(x, real)))


def sentence_encoder(weights: str | Path | None = None) -> SentenceEncoder:
    """all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; Reimers and Gurevych 2019, arXiv 1908.10084), 22.6 M
    parameters. weights: its `model.safetensors`; None leaves them random."""
    encoder = SentenceEncoder()
    if weights is not None:
        from safetensors.torch import load_file

        encoder.load_state_dict({name: t for old, t in load_file(weights).items() if (name := _renamed(old))})
    return encoder


def sentence_classifier(classes: int, weights: str | Path | None = None) -> SentenceClassifier:
    """The sentence encoder with a head of so many classes. weights: as of `sentence_encoder`."""
    return SentenceClassifier(sentence_encoder(weights), 384, classes)


def lstm_classifier(classes: int, embedding: int = 64, width: int = 96) -> LstmClassifier:
    """Bidirectional LSTM over the sentence encoder's 30,522 word pieces; most parameters are the embedding's."""
    return LstmClassifier(classes, embedding, width)


def transformer_classifier(
    classes: int, tokens: int = 128, width: int = 64, layers: int = 2, heads: int = 4
) -> TransformerClassifier:
    """Small BERT classifier for up to `tokens` of the sentence encoder's word pieces; width: a multiple of heads."""
    return TransformerClassifier(classes, width, layers, heads, tokens)


def _renamed(name: str) -> str:
    """The name here of a tensor in the published file, "" for one that mean pooling does not use."""
    if name.startswith("pooler.") or name.endswith("position_ids"):
        return ""
    for old, new in _RENAMED:
        name = re.sub(f"(^|\\.){old}", rf"\g<1>{new}", name)
    return name

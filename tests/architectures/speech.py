"""Sound: recognition, keywords, speakers, separation, vocoders; and text in images, which is read as sound is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.language import BertLayer
from architectures.parts import Table, conv_bn, floats, tokens


class WaveNet(nn.Module):
    """tanh times sigmoid of two convolutions; skips are summed at the end, where the last residual leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.causal = nn.Embedding(32, 16), nn.Conv1d(16, 16, 2)
        self.filters = nn.ModuleList([nn.Conv1d(16, 24, 2, dilation=d) for d in (1, 2, 4)])
        self.gates = nn.ModuleList([nn.Conv1d(16, 24, 2, dilation=d) for d in (1, 2, 4)])
        self.residuals = nn.ModuleList([nn.Conv1d(24, 16, 1) for _ in range(3)])
        self.skips = nn.ModuleList([nn.Conv1d(24, 32, 1) for _ in range(3)])
        self.end1, self.end2 = nn.Conv1d(32, 32, 1), nn.Conv1d(32, 32, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.causal(self.embed(tokens).transpose(1, 2))
        total: Tensor | float = 0.0
        for f, g, residual, skip in zip(self.filters, self.gates, self.residuals, self.skips, strict=True):
            z = torch.tanh(f(x)) * torch.sigmoid(g(x))
            s = skip(z)
            total = s if isinstance(total, float) else s + total[:, :, -s.size(2) :]
            x = residual(z) + x[:, :, -z.size(2) :]
        return self.end2(F.relu(self.end1(F.relu(total))))


class GatedWaveNet(nn.Module):
    """As vocoders write it: one convolution of 2w channels plus a condition, halved; one 1×1 for residual and skip."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.condition = nn.Conv1d(1, 16, 1), nn.Conv1d(8, 2 * 16 * 2, 1)
        self.inner = nn.ModuleList([nn.Conv1d(16, 32, 3, padding=2**i, dilation=2**i) for i in range(2)])
        self.res_skip = nn.ModuleList([nn.Conv1d(16, 32, 1), nn.Conv1d(16, 16, 1)])
        self.end = nn.Conv1d(16, 2, 1)

    def forward(self, audio: Tensor, mel: Tensor) -> Tensor:
        x, condition = self.start(audio), self.condition(mel)
        output = torch.zeros_like(x)
        for i in range(2):
            acts = self.inner[i](x) + condition[:, i * 32 : (i + 1) * 32, :]
            acts = torch.tanh(acts[:, :16, :]) * torch.sigmoid(acts[:, 16:, :])
            both = self.res_skip[i](acts)
            if i == 0:
                x = x + both[:, :16, :]
                output = output + both[:, 16:, :]
            else:
                output = output + both
        return self.end(output)


class Crnn(nn.Module):
    """Text in images: convolutions down to height 1, then columns as steps of two bidirectional LSTMs."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            conv_bn(1, 16), nn.MaxPool2d(2, 2), conv_bn(16, 24), nn.MaxPool2d((2, 1), (2, 1)),
            conv_bn(24, 32), nn.MaxPool2d((2, 2), (2, 1), (0, 1)), nn.Conv2d(32, 32, 2), nn.ReLU(True),
        )  # fmt: skip
        self.rnn1, self.fc1 = nn.LSTM(32, 16, bidirectional=True), nn.Linear(32, 16)
        self.rnn2, self.fc2 = nn.LSTM(16, 16, bidirectional=True), nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cnn(x).squeeze(2).permute(2, 0, 1)
        x = self.fc1(self.rnn1(x)[0])
        return F.log_softmax(self.fc2(self.rnn2(x)[0]), dim=2).transpose(0, 1)


class DeepSpeech(nn.Module):
    """Spectrogram convolutions with clipped ReLU; channels and frequencies become a GRU's features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 8, (11, 5), (2, 2), (5, 2)), nn.BatchNorm2d(8), nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(8, 8, (11, 5), (2, 1), (5, 2)), nn.BatchNorm2d(8), nn.Hardtanh(0, 20, inplace=True),
        )  # fmt: skip
        self.rnn = nn.GRU(8 * 8, 24, bidirectional=True, bias=False)
        self.norm, self.fc = nn.BatchNorm1d(24), nn.Linear(24, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, f, t = x.size()
        x = x.view(n, c * f, t).transpose(1, 2).transpose(0, 1).contiguous()
        x, _ = self.rnn(x)
        x = x.view(t, n, 2, -1).sum(2)
        x = self.norm(x.reshape(t * n, -1)).view(t, n, -1)
        return self.fc(x).transpose(0, 1).softmax(-1)


class QuartzBlock(nn.Module):
    """Time-channel separable convolutions, a 1×1 residual before the last ReLU."""

    def __init__(self, inputs: int, width: int, kernel: int):
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(2):
            entering = inputs if i == 0 else width
            layers += [nn.Conv1d(entering, entering, kernel, padding=kernel // 2, groups=entering, bias=False)]
            layers += [nn.Conv1d(entering, width, 1, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.residual = nn.Sequential(nn.Conv1d(inputs, width, 1, bias=False), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.residual(x))


def quartznet() -> nn.Module:
    stem = nn.Sequential(nn.Conv1d(16, 24, 5, 2, 2, bias=False), nn.BatchNorm1d(24), nn.ReLU())
    return nn.Sequential(stem, QuartzBlock(24, 32, 7), QuartzBlock(32, 40, 9), nn.Conv1d(40, 12, 1), nn.LogSoftmax(1))


def ds_cnn() -> nn.Module:
    """Keywords from 32 frames of 10 coefficients."""
    layers: list[nn.Module] = [nn.Conv2d(1, 24, (10, 4), (2, 2), (5, 1)), nn.BatchNorm2d(24), nn.ReLU()]
    for _ in range(3):
        layers += [conv_bn(24, 24, 3, groups=24), conv_bn(24, 24, 1)]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.AvgPool2d((16, 4)), nn.Flatten(), nn.Linear(24, 12))


class Demucs(nn.Module):
    """Waveform U-Net: strided convolutions with GLU, an LSTM in the middle, skips added after cropping."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv1d(1, 16, 8, 4), nn.ReLU(), nn.Conv1d(16, 32, 1), nn.GLU(dim=1))
        self.enc2 = nn.Sequential(nn.Conv1d(16, 24, 8, 4), nn.ReLU(), nn.Conv1d(24, 48, 1), nn.GLU(dim=1))
        self.lstm, self.linear = nn.LSTM(24, 24, bidirectional=True), nn.Linear(48, 24)
        self.dec2 = nn.Sequential(
            nn.Conv1d(24, 48, 3, padding=1), nn.GLU(1), nn.ConvTranspose1d(24, 16, 8, 4), nn.ReLU()
        )
        self.dec1 = nn.Sequential(nn.Conv1d(16, 32, 3, padding=1), nn.GLU(1), nn.ConvTranspose1d(16, 2, 8, 4))

    def forward(self, x: Tensor) -> Tensor:
        first = self.enc1(x)
        second = self.enc2(first)
        y = self.linear(self.lstm(second.permute(2, 0, 1))[0]).permute(1, 2, 0)
        y = self.dec2(y + second[..., : y.shape[-1]])
        return self.dec1(y + first[..., : y.shape[-1]])


class ConvTasNet(nn.Module):
    """Masks over a learnt basis, one for each of two speakers; global layer norm as a one-group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv1d(1, 24, 8, 4, bias=False), nn.ConvTranspose1d(24, 1, 8, 4, bias=False)
        self.norm, self.bottleneck, self.up = nn.GroupNorm(1, 24), nn.Conv1d(24, 16, 1), nn.Conv1d(16, 32, 1)
        self.depthwise = nn.Sequential(
            nn.PReLU(), nn.GroupNorm(1, 32), nn.Conv1d(32, 32, 3, padding=2, dilation=2, groups=32), nn.PReLU()
        )
        self.residual, self.skip, self.mask = nn.Conv1d(32, 16, 1), nn.Conv1d(32, 16, 1), nn.Conv1d(16, 2 * 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        basis = F.relu(self.encoder(x))
        y = self.bottleneck(self.norm(basis))
        hidden = self.depthwise(self.up(y))
        skips = self.skip(hidden) + self.residual(hidden) + y
        masks = torch.sigmoid(self.mask(skips)).view(-1, 2, 24, basis.size(-1))
        masked = masks * basis.unsqueeze(1)
        parts = self.decoder(masked.view(-1, 24, basis.size(-1)))
        return parts.view(basis.size(0), 2, -1)


class XVector(nn.Module):
    """Speaker embeddings: dilated convolutions, then mean and deviation over time, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            nn.Conv1d(16, 32, 5), nn.ReLU(), nn.BatchNorm1d(32), nn.Conv1d(32, 32, 3, dilation=2), nn.ReLU(),
            nn.BatchNorm1d(32), nn.Conv1d(32, 48, 1), nn.ReLU(),
        )  # fmt: skip
        self.segment, self.norm, self.out = nn.Linear(96, 32), nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.frames(x)
        deviation = torch.sqrt(x.var(dim=2, unbiased=False) + 1e-6)
        return self.out(self.norm(F.relu(self.segment(torch.cat((x.mean(dim=2), deviation), dim=1)))))


class Spectrogram(nn.Module):
    """Batch norm over the frequencies by a transpose, then a small VGG (PANNs)."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0, self.block1, self.block2 = nn.BatchNorm2d(16), conv_bn(1, 16), conv_bn(16, 24)
        self.fc1, self.head = nn.Linear(24, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        x = self.block2(F.avg_pool2d(self.block1(x), kernel_size=(2, 2)))
        x = torch.mean(x, dim=3)
        peak, _ = torch.max(x, dim=2)
        return torch.sigmoid(self.head(F.relu_(self.fc1(peak + torch.mean(x, dim=2)))))


class Whisper(nn.Module):
    """Two Conv1d before the encoder, the second with stride 2; keys without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(16, 32, 3, padding=1), nn.Conv1d(32, 32, 3, stride=2, padding=1)
        self.register_buffer("places", torch.sin(torch.arange(10)[:, None] / 10 ** torch.linspace(0, 4, 32)))
        self.attn_ln, self.mlp_ln, self.ln_post = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.query, self.key = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        self.value, self.out = nn.Linear(32, 32), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).permute(0, 2, 1)
        x = (x + self.places).to(mel.dtype)
        y = self.attn_ln(x)
        scale = 8**-0.25
        q = self.query(y).view(*y.shape[:2], 4, -1).permute(0, 2, 1, 3) * scale
        k = self.key(y).view(*y.shape[:2], 4, -1).permute(0, 2, 3, 1) * scale
        v = self.value(y).view(*y.shape[:2], 4, -1).permute(0, 2, 1, 3)
        y = (F.softmax((q @ k).float(), dim=-1) @ v).permute(0, 2, 1, 3).flatten(start_dim=2)
        x = x + self.out(y)
        return self.ln_post(x + self.mlp(self.mlp_ln(x)))


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, a convolution module with GLU, half a feed-forward, norm."""

    def __init__(self, width: int):
        super().__init__()
        self.ff1, self.ff2 = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, width)) for _ in range(2)
        )
        self.norm_attn, self.attn = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm_conv, self.pointwise1 = nn.LayerNorm(width), nn.Conv1d(width, 2 * width, 1)
        self.depthwise, self.bn = nn.Conv1d(width, width, 5, padding=2, groups=width), nn.BatchNorm1d(width)
        self.pointwise2, self.norm = nn.Conv1d(width, width, 1), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.ff1(x)
        y = self.norm_attn(x)
        x = x + self.attn(y, y, y)[0]
        y = F.glu(self.pointwise1(self.norm_conv(x).transpose(1, 2)), dim=1)
        x = x + self.pointwise2(F.silu(self.bn(self.depthwise(y)))).transpose(1, 2)
        return self.norm(x + 0.5 * self.ff2(x))


class Conformer(nn.Module):
    """A 2-D convolution subsamples; channels times frequencies become the width."""

    def __init__(self) -> None:
        super().__init__()
        self.subsample, self.out = nn.Conv2d(1, 16, 3, 2, 1), nn.Linear(16 * 8, 32)
        self.blocks, self.head = nn.Sequential(ConformerBlock(32), ConformerBlock(32)), nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.subsample(x.unsqueeze(1)))
        b, c, t, f = x.size()
        x = self.out(x.transpose(1, 2).contiguous().view(b, t, c * f))
        return F.log_softmax(self.head(self.blocks(x)), dim=-1)


class Wav2Vec(nn.Module):
    """Waveform convolutions with a group norm a channel, a weight-normed grouped convolution for the places."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(1, 24, 10, 5, bias=False), nn.GroupNorm(24, 24), nn.GELU(), nn.Conv1d(24, 24, 3, 2, bias=False),
            nn.GELU(),
        )  # fmt: skip
        self.project = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 32))
        conv = nn.Conv1d(32, 32, 4, padding=2, groups=4)
        self.place, self.norm = nn.utils.parametrizations.weight_norm(conv, dim=2), nn.LayerNorm(32)
        self.layer, self.head = BertLayer(32, 4, 64), nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.features(x[:, None]).transpose(1, 2))
        place = F.gelu(self.place(x.transpose(1, 2))[:, :, :-1]).transpose(1, 2)
        return self.head(self.layer(self.norm(x + place)))


TABLE: Table = {
    "wavenet": (WaveNet, tokens(20, 32)),
    "wavenet_gated": (GatedWaveNet, lambda: (torch.randn(2, 1, 20), torch.randn(2, 8, 20))),
    "crnn": (Crnn, floats(1, 16, 32)),
    "deepspeech": (DeepSpeech, floats(1, 32, 24)),
    "quartznet": (quartznet, floats(16, 20)),
    "ds_cnn": (ds_cnn, floats(1, 32, 10)),
    "demucs": (Demucs, floats(1, 84)),
    "conv_tasnet": (ConvTasNet, floats(1, 64)),
    "x_vector": (XVector, floats(16, 20)),
    "panns": (Spectrogram, floats(1, 20, 16)),
    "whisper_encoder": (Whisper, floats(16, 20)),
    "conformer": (Conformer, floats(20, 16)),
    "wav2vec": (Wav2Vec, floats(120)),
}

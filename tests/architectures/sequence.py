"""Series, video and text by convolutions and recurrences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Table, floats, tokens


class Temporal(nn.Module):
    """TCN: padded on both sides, the future cut off ("chomp") by a slice."""

    def __init__(self, inputs: int, width: int, dilation: int):
        super().__init__()
        self.chomp = 2 * dilation
        self.conv1 = nn.Conv1d(inputs, width, 3, padding=self.chomp, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 3, padding=self.chomp, dilation=dilation)
        self.downsample = nn.Conv1d(inputs, width, 1) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(x)[:, :, : -self.chomp].contiguous())
        out = F.dropout(F.relu(self.conv2(out)[:, :, : -self.chomp]), 0.2, self.training)
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Tcn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tcn = nn.Sequential(Temporal(4, 16, 1), Temporal(16, 16, 2), Temporal(16, 24, 4))
        self.linear = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.linear(self.tcn(x)[:, :, -1]), dim=1)


class ResidualSeries(nn.Module):
    """1-D ResNet for time series: kernels 7, 5, 3, batch-normed shortcut."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 16, 16)
        self.body = nn.Sequential()
        for i, kernel in enumerate((7, 5, 3)):
            self.body.append(nn.Conv1d(widths[i], 16, kernel, padding="same"))
            self.body.append(nn.BatchNorm1d(16))
            if i < 2:
                self.body.append(nn.ReLU())
        self.shortcut = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(x) + self.shortcut(x))
        return self.fc(F.adaptive_avg_pool1d(x, 1).squeeze(-1))


class InceptionTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(3, 8, 1, bias=False)
        self.convs = nn.ModuleList([nn.Conv1d(8, 8, k, padding=k // 2, bias=False) for k in (9, 5, 3)])
        self.pool = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(3, 8, 1, bias=False))
        self.norm, self.fc = nn.BatchNorm1d(32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bottleneck(x)
        return self.fc(F.relu(self.norm(torch.cat([*(c(y) for c in self.convs), self.pool(x)], 1))).mean(-1))


class LstmClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(50, 16), nn.LSTM(16, 32, batch_first=True)
        self.dropout, self.fc = nn.Dropout(0.3), nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.embed(tokens))
        return self.fc(self.dropout(hidden[-1]))


class BiLstmTagger(nn.Module):
    """Both directions' states, attention pooling beside the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(50, 16), nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.tags, self.attention, self.fc = nn.Linear(32, 6), nn.Linear(32, 1), nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self.lstm(self.embed(tokens))
        weights = torch.softmax(self.attention(torch.tanh(states)), dim=1)
        return self.tags(states), self.fc(torch.sum(weights * states, dim=1))


class GruForecast(nn.Module):
    """Two layers, time first, states given; the last layer's state forecasts."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.fc = nn.GRU(4, 24, num_layers=2, dropout=0.1), nn.Sequential(nn.Linear(24, 16), nn.ReLU())
        self.out = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(1, 0, 2)
        start = torch.zeros(2, x.size(1), 24)
        out, _ = self.gru(x, start)
        return self.out(self.fc(out[-1, :, :]))


class TextCnn(nn.Module):
    """Kim: kernels as high as 2, 3, 4 words and as wide as the embedding; maxima over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16, padding_idx=0)
        self.convs = nn.ModuleList([nn.Conv2d(1, 8, (k, 16)) for k in (2, 3, 4)])
        self.fc = nn.Linear(24, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).unsqueeze(1)
        maps = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        return self.fc(torch.cat([F.max_pool1d(m, m.size(2)).squeeze(2) for m in maps], 1))


class FastText(nn.Module):
    """Mean of embeddings, one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc1, self.fc2 = nn.Embedding(50, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(self.embed(tokens).mean(dim=1))))


class ConvLstmWindows(nn.Module):
    """Conv1d and LSTM over windows, as activity recognition has it; then a linear on the flattened states."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(6, 16, 3, padding=1), nn.LSTM(16, 16, batch_first=True)
        self.fc = nn.Linear(16 * 10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.conv(x.transpose(1, 2))), 2).transpose(1, 2)
        out, _ = self.lstm(x)
        return self.fc(out.flatten(1))


class UnrolledGru(nn.Module):
    """GRU written out with linears, six steps: the same two weights used at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.x2h, self.h2h, self.out = nn.Linear(8, 48), nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), 16)
        for t in range(6):
            xr, xz, xn = self.x2h(x[:, t]).chunk(3, 1)
            hr, hz, hn = self.h2h(h).chunk(3, 1)
            r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
            n = torch.tanh(xn + r * hn)
            h = (1 - z) * n + z * h
        return self.out(h)


class Video(nn.Module):
    """R(2+1)D: space and time in separate 3-D convolutions, then one full one."""

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Sequential(nn.Conv3d(3, 16, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.BatchNorm3d(16), nn.ReLU(True))
        self.time, self.full = nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0)), nn.Conv3d(16, 24, 3, 2, 1)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.space(x)
        x = F.relu(self.full(F.relu(self.time(x) + x)))
        return self.fc(F.adaptive_avg_pool3d(x, 1).flatten(1))


class TemporalShift(nn.Module):
    """TSM: some channels move a frame forward, some back, by writes into slices; frames share a 2-D network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, frames: Tensor) -> Tensor:
        n, t, c, h, w = frames.size()
        x = F.relu(self.stem(frames.view(n * t, c, h, w)))
        y = x.view(n, t, 16, h // 2, w // 2)
        out = torch.zeros_like(y)
        out[:, :-1, :4] = y[:, 1:, :4]
        out[:, 1:, 4:8] = y[:, :-1, 4:8]
        out[:, :, 8:] = y[:, :, 8:]
        x = F.relu(x + self.conv(out.view(n * t, 16, h // 2, w // 2)))
        return self.fc(x.mean((2, 3))).view(n, t, -1).mean(1)


class ConvLstm(nn.Module):
    """Gates of all four kinds from one convolution of input and state, over three frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3 + 16, 4 * 16, 3, padding=1), nn.Conv2d(16, 3, 1)

    def forward(self, frames: Tensor) -> Tensor:
        b, _, _, height, width = frames.shape
        h, c = frames.new_zeros(b, 16, height, width), frames.new_zeros(b, 16, height, width)
        for t in range(3):
            combined = self.conv(torch.cat([frames[:, t], h], dim=1))
            i, f, o, g = torch.split(combined, 16, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


class Captioner(nn.Module):
    """Additive attention over an encoder's states, decoded by a GRU cell and an LSTM cell for four steps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Embedding(50, 16), nn.GRU(16, 24, batch_first=True)
        self.keys, self.query, self.score = nn.Linear(24, 16), nn.Linear(24, 16), nn.Linear(16, 1)
        self.cell, self.second, self.out = nn.GRUCell(24, 24), nn.LSTMCell(24, 16), nn.Linear(16, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        states, last = self.encoder(self.embed(tokens))
        h, keys, words = last.squeeze(0), self.keys(states), []
        hidden = cell = h.new_zeros(h.size(0), 16)
        for _ in range(4):
            weights = F.softmax(self.score(torch.tanh(keys + self.query(h).unsqueeze(1))).squeeze(-1), dim=-1)
            h = self.cell(torch.bmm(weights.unsqueeze(1), states).squeeze(1), h)
            hidden, cell = self.second(h, (hidden, cell))
            words.append(self.out(hidden))
        return torch.stack(words, 1)


TABLE: Table = {
    "tcn": (Tcn, floats(4, 20)),
    "resnet_1d": (ResidualSeries, floats(3, 20)),
    "inception_time": (InceptionTime, floats(3, 20)),
    "lstm_classifier": (LstmClassifier, tokens(12)),
    "bilstm_tagger": (BiLstmTagger, tokens(12)),
    "gru_forecast": (GruForecast, floats(12, 4)),
    "text_cnn": (TextCnn, tokens(12)),
    "fasttext": (FastText, tokens(12)),
    "conv_lstm_windows": (ConvLstmWindows, floats(20, 6)),
    "unrolled_gru": (UnrolledGru, floats(6, 8)),
    "video": (Video, floats(3, 4, 16, 16)),
    "temporal_shift": (TemporalShift, floats(4, 3, 16, 16)),
    "conv_lstm": (ConvLstm, floats(3, 3, 12, 12)),
    "captioner": (Captioner, tokens(12)),
}

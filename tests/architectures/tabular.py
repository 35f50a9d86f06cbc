"""Rows of numbers and categories, graphs and sets of points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Inputs, Table, both, floats


class WideAndDeep(nn.Module):
    """A linear on the raw row added to an MLP on embeddings and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embeds = nn.ModuleList([nn.Embedding(10, 8) for _ in range(4)])
        self.wide, self.out = nn.Linear(6, 1), nn.Linear(16, 1)
        self.deep = nn.Sequential(nn.Linear(38, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        rows = [embed(categories[:, i]) for i, embed in enumerate(self.embeds)]
        return torch.sigmoid(self.wide(numbers) + self.out(self.deep(torch.cat([*rows, numbers], 1)))).squeeze(1)


class Dlrm(nn.Module):
    """Products of all pairs of embeddings, the lower triangle taken by an index, beside the dense features."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
        self.embeds = nn.ModuleList([nn.Embedding(10, 16) for _ in range(4)])
        self.top = nn.Sequential(nn.Linear(16 + 10, 24), nn.ReLU(), nn.Linear(24, 1), nn.Sigmoid())
        self.register_buffer("li", torch.tensor([i for i in range(5) for _ in range(i)]))
        self.register_buffer("lj", torch.tensor([j for i in range(5) for j in range(i)]))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        x = self.bottom(numbers)
        rows = [embed(categories[:, i]) for i, embed in enumerate(self.embeds)]
        T = torch.cat([x, *rows], dim=1).view(x.shape[0], -1, 16)
        Z = torch.bmm(T, torch.transpose(T, 1, 2))
        return self.top(torch.cat([x, Z[:, self.li, self.lj]], dim=1))


class DeepFm(nn.Module):
    """A factorisation machine, the square of sums minus the sum of squares, over one table with offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.arange(4) * 10)
        self.table, self.first = nn.Embedding(40, 16), nn.Embedding(40, 1)
        self.mlp = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))

    def forward(self, categories: Tensor) -> Tensor:
        ids = categories + self.offsets.unsqueeze(0)
        x = self.table(ids)
        pairs = 0.5 * (torch.sum(x, dim=1) ** 2 - torch.sum(x**2, dim=1)).sum(dim=1, keepdim=True)
        return torch.sigmoid(self.first(ids).sum(dim=1) + pairs + self.mlp(x.view(-1, 64)))


class CrossNetwork(nn.Module):
    """DCN-V2: layers that multiply by the input, a deep part beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.cross = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)])
        self.deep, self.out = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16)), nn.Linear(28, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for linear in self.cross:
            y = x * linear(y) + y
        return self.out(torch.cat((y, self.deep(x)), dim=-1))


class FeatureTokens(nn.Module):
    """FT-Transformer: each number times its own vector is a token; a gated MLP; the class token comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 24)), nn.Parameter(torch.randn(8, 24))
        self.cls, self.attention = nn.Parameter(torch.randn(24)), nn.MultiheadAttention(24, 4, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.enter, self.leave, self.head = nn.Linear(24, 64), nn.Linear(32, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.weight[None] * x[..., None] + self.bias
        x = torch.cat([x, self.cls.expand(x.shape[0], 1, -1)], dim=1)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        a, b = self.enter(self.norm2(x)).chunk(2, dim=-1)
        x = x + self.leave(a * F.relu(b))
        return self.head(F.relu(x[:, -1]))


class TabularResNet(nn.Module):
    """Batch norm, widening, ReLU, narrowing, added; the same in each block."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.head = nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)
        self.blocks = nn.ModuleList([
            nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 32))
            for _ in range(2)
        ])  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.relu(self.norm(x)))


class Highway(nn.Module):
    """A gate between a transform and the input; self-normalising layers before it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.transform = nn.Linear(8, 24), nn.Linear(24, 24)
        self.gate, self.head = nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.alpha_dropout(F.selu(self.enter(x)), 0.1, self.training)
        t = torch.sigmoid(self.gate(x))
        return self.head(torch.lerp(x, F.relu(self.transform(x)), t))


class GraphConvolution(nn.Module):
    """GCN over a dense adjacency, normalised in the graph; the readout sums the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        adjacency = adjacency + adjacency.transpose(1, 2) + torch.eye(6)
        adjacency = adjacency / adjacency.sum(dim=-1, keepdim=True)
        x = F.relu(torch.bmm(adjacency, self.first(nodes)))
        return self.head(torch.matmul(adjacency, self.second(x)).sum(dim=1))


class GraphAttention(nn.Module):
    """GAT: scores of pairs as sums of two learnt projections, by broadcasting."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(8, 24, bias=False), nn.Linear(24, 3)
        self.source, self.target = nn.Parameter(torch.randn(1, 1, 3, 8)), nn.Parameter(torch.randn(1, 1, 3, 8))

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        h = self.linear(nodes).view(-1, 6, 3, 8)
        scores = (h * self.source).sum(-1).unsqueeze(2) + (h * self.target).sum(-1).unsqueeze(1)
        scores = F.leaky_relu(scores, 0.2).where(adjacency.unsqueeze(-1) > 0.3, torch.tensor(-1e9))
        y = torch.einsum("bijh,bjhd->bihd", scores.softmax(2), h)
        return self.head(F.elu(y.reshape(-1, 6, 24)))


class PointNet(nn.Module):
    """A learnt 3×3 transform of the points, shared MLPs as Conv1d, the maximum joined to every point."""

    def __init__(self) -> None:
        super().__init__()
        self.tconv, self.tfc = nn.Conv1d(3, 16, 1), nn.Linear(16, 9)
        self.conv1, self.bn1 = nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24)
        self.conv2, self.bn2 = nn.Conv1d(24, 32, 1), nn.BatchNorm1d(32)
        self.classify, self.segment = nn.Linear(32, 5), nn.Conv1d(56, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.max(F.relu(self.tconv(x)), 2, keepdim=True)[0].view(-1, 16)
        transform = (self.tfc(t) + torch.eye(3).flatten()).view(-1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), transform).transpose(2, 1)
        local = F.relu(self.bn1(self.conv1(x)))
        whole = torch.max(self.bn2(self.conv2(local)), 2)[0]
        joined = torch.cat([whole.view(-1, 32, 1).repeat(1, 1, 20), local], 1)
        return self.classify(whole), self.segment(joined)


class MultiTask(nn.Module):
    """MMoE: experts shared by two tasks, a gate and a tower each."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(8, 24), nn.ReLU()) for _ in range(3)])
        self.gates = nn.ModuleList([nn.Linear(8, 3, bias=False) for _ in range(2)])
        self.towers = nn.ModuleList([nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(2)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = torch.stack([expert(x) for expert in self.experts])
        outputs = {}
        for name, gate, tower in zip(("click", "buy"), self.gates, self.towers, strict=True):
            weights = gate(x).softmax(dim=1).t().unsqueeze(2).expand(-1, -1, 24)
            outputs[name] = tower((made * weights).sum(dim=0))
        return outputs


class DuelingDqn(nn.Module):
    """DQN's convolutions with fixed flatten, a dueling head; the mean advantage is taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 16, 8, 4), nn.Conv2d(16, 24, 4, 2)
        self.value = nn.Sequential(nn.Linear(24 * 9, 32), nn.ReLU(), nn.Linear(32, 1))
        self.advantage = nn.Sequential(nn.Linear(24 * 9, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, frames: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(frames)))).reshape(-1, 24 * 9)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(dim=1, keepdim=True)


def categories(columns: int = 4) -> Inputs:
    return lambda: (torch.randint(0, 10, (2, columns)),)


GRAPH = both(floats(6, 8), lambda: (torch.rand(2, 6, 6),))
TABLE: Table = {
    "wide_and_deep": (WideAndDeep, both(floats(6), categories())),
    "dlrm": (Dlrm, both(floats(6), categories())),
    "deepfm": (DeepFm, categories()),
    "cross_network": (CrossNetwork, floats(12)),
    "ft_transformer": (FeatureTokens, floats(8)),
    "tabular_resnet": (TabularResNet, floats(8)),
    "highway": (Highway, floats(8)),
    "graph_convolution": (GraphConvolution, GRAPH),
    "graph_attention": (GraphAttention, GRAPH),
    "pointnet": (PointNet, floats(3, 20)),
    "multi_task": (MultiTask, floats(8)),
    "dueling_dqn": (DuelingDqn, floats(4, 36, 36)),
}

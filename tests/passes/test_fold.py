"""Batch-norm folding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import packlight as pl
from packlight.model.operators import packet
from packlight.passes.fold import folded


def settled(module: nn.Module, example: Tensor) -> nn.Module:
    """The module with batch-norm statistics and affine parameters that are not the defaults."""
    torch.manual_seed(1)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine:
            nn.init.uniform_(m.weight, 0.5, 2.0)
            nn.init.normal_(m.bias)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, *example.shape[1:]) * 2 + 1)
    return module.eval()


NETS = {
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), (2, 3, 8, 8)),
    "conv2d without bias": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)), (2, 3, 8, 8)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)), (2, 6, 8, 8)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)), (2, 3, 16)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 2, 5, 5, 5)),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)), (2, 5)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.BatchNorm2d(8)), (2, 3, 6, 6)),
    "transposed, grouped": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)),
        (2, 4, 6, 6),
    ),
    "without affine": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_folding_keeps_the_outputs_and_removes_the_norm(name: str) -> None:
    make, shape = NETS[name]
    module = settled(make(), torch.zeros(shape))
    model = pl.load(module, torch.zeros(shape))
    small = pl.fold(model)
    x = torch.randn(shape)
    wanted = module(x).detach()
    # float32 sums in another order: a few units in the last place of the largest value
    assert torch.allclose(small(x), wanted, atol=2e-6 * float(wanted.abs().max()))
    assert not torch.allclose(small(x) * 1.01, wanted, atol=2e-6 * float(wanted.abs().max()))
    assert "batch_norm" not in map(packet, small.nodes)
    assert "batch_norm" in map(packet, model.nodes), "the given Model must stay as it was"
    assert [s.name for s in small.lineage] == ["load", "fold"]


def test_folded_by_hand() -> None:
    weight, bias = folded(
        torch.tensor([[2.0]]), torch.tensor([1.0]), mean=torch.tensor([3.0]), variance=torch.tensor([4.0]),
        gamma=torch.tensor([10.0]), beta=torch.tensor([0.5]), eps=0.0, axis=0, groups=1,
    )  # fmt: skip
    # 10 · (2x + 1 − 3) / 2 + 0.5 = 10x − 9.5
    assert weight.tolist() == [[10.0]] and bias.tolist() == [-9.5]


def test_a_norm_after_a_layer_that_others_read_stays() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    module = settled(Shared(), torch.zeros(2, 3, 4, 4))
    small = pl.fold(pl.load(module, torch.zeros(2, 3, 4, 4)))
    x = torch.randn(2, 3, 4, 4)
    assert "batch_norm" in map(packet, small.nodes)
    assert torch.equal(small(x), module(x))


def test_two_layers_that_share_a_weight_are_folded_apart() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.conv(self.first(self.conv(x))))

    module = settled(Tied(), torch.zeros(2, 3, 4, 4))
    small = pl.fold(pl.load(module, torch.zeros(2, 3, 4, 4)))
    x = torch.randn(2, 3, 4, 4)
    assert "batch_norm" not in map(packet, small.nodes)
    assert torch.allclose(small(x), module(x), atol=1e-5)


def test_a_norm_after_a_linear_layer_on_sequences_stays_as_it_normalises_another_axis() -> None:
    module = settled(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(6)), torch.zeros(2, 6, 5))
    small = pl.fold(pl.load(module, torch.zeros(2, 6, 5)))
    x = torch.randn(2, 6, 5)
    assert "batch_norm" in map(packet, small.nodes) and torch.equal(small(x), module(x))


def test_a_network_without_norms_gets_no_step() -> None:
    model = pl.load(nn.Linear(3, 2), torch.zeros(2, 3))
    assert [s.name for s in pl.fold(model).lineage] == ["load"]

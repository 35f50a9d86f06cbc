"""What stays takes over what was cut, by least squares."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import packlight as pl
from packlight.passes.prune import Pruning, prune

HALF = Pruning(0.5, by="channels")


def randomly(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_twins(layer: nn.Module) -> nn.Module:
    """A layer whose second half of outputs is the first times 0.1, and so smaller: L2 cuts it."""
    half = layer.weight.shape[0] // 2
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor[:half] *= 4
            tensor[half:] = tensor[:half] * 0.1
    return layer


def chain(first: nn.Module, *rest: nn.Module) -> nn.Module:
    return nn.Sequential(with_twins(first), nn.ReLU(), *rest)


def networks() -> dict[str, tuple[nn.Module, Sequence[int]]]:
    """Networks half of whose hidden channels say nothing new; ReLU keeps a positive multiple one."""
    torch.manual_seed(0)
    images = nn.Conv2d(3, 16, 3)
    return {
        "linear": (chain(nn.Linear(6, 16), nn.Linear(16, 4)), (6,)),
        "without bias": (chain(nn.Linear(6, 16, bias=False), nn.Linear(16, 4, bias=False)), (6,)),
        "convolution": (chain(images, nn.Conv2d(16, 4, 3, stride=2, padding=1)), (3, 9, 9)),
        "dilated, 1-d": (chain(nn.Conv1d(3, 16, 3), nn.Conv1d(16, 4, 3, dilation=2)), (3, 12)),
        "same padding": (chain(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3, padding="same")), (3, 9, 9)),
        "3-d": (chain(nn.Conv3d(2, 8, 2), nn.Conv3d(8, 4, 2)), (2, 5, 5, 5)),
        "flattened": (chain(nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 4)), (3, 6, 6)),
    }


@pytest.mark.parametrize("name", networks())
def test_channels_that_follow_from_others_are_not_missed(name: str) -> None:
    net, shape = networks()[name]
    x = randomly(64, *shape)
    model = pl.load(net.eval(), x)
    plain, made = prune(model, HALF), prune(model, HALF, calibration=[(x,)])
    wanted = model(x)
    size = wanted.square().mean().sqrt()
    assert (plain(x) - wanted).square().mean().sqrt() > 0.05 * size
    assert (made(x) - wanted).square().mean().sqrt() < 0.03 * size
    assert {n: t.shape for n, t in made.named_tensors().items()} == {
        n: t.shape for n, t in plain.named_tensors().items()
    }


def test_the_layer_after_is_the_least_squares_optimum() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).eval()
    x = randomly(500, 6)
    model = pl.load(net, x[:2])
    made = prune(model, HALF, calibration=[(x[:250],), (x[250:],)])
    hidden = torch.tanh(
        torch.nn.functional.linear(x, *(made.named_tensors()[n].detach() for n in ("0.weight", "0.bias")))
    )
    design = torch.cat([hidden, torch.ones(len(x), 1)], 1).double()
    best = torch.linalg.lstsq(design, model(x).detach().double()).solution
    error = (made(x).detach() - model(x).detach()).square().mean()
    least = (design @ best - model(x).detach().double()).square().mean()
    assert least <= error < 1.05 * least


def test_a_convolution_without_bias_before_a_batch_norm_moves_the_norm() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        with_twins(nn.Conv2d(3, 16, 3)), nn.ReLU(), nn.Conv2d(16, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 4),
    ).eval()  # fmt: skip
    x = randomly(256, 3, 8, 8)
    model = pl.load(net, x[:2])
    how = Pruning(0.5, by="channels", exclude="2*")
    made, plain = prune(model, how, calibration=[(x,)]), prune(model, how)
    assert (made(x) - model(x)).square().mean() < 0.05 * (plain(x) - model(x)).square().mean()


def test_a_weight_that_two_layers_share_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(torch.relu(self.again(torch.relu(self.first(x))))).sum(1, keepdim=True)

    torch.manual_seed(0)
    x = randomly(64, 8)
    model = pl.load(Shared().eval(), x)
    made = prune(model, HALF, calibration=[(x,)])
    assert made(x).shape == (64, 1) and made.named_tensors()["again.weight"].shape == (4, 4)

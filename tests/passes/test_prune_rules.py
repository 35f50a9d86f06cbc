"""Operators one by one between two layers: what is cut before them agrees with what is masked after them."""

from collections.abc import Callable

import pytest
import torch
from cuts import cut_by
from torch import Tensor, nn
from torch.nn import functional as F

import packlight as pl

AGREES = 1e-9  # rounding of float64


class Between(nn.Module):
    """[n, 4, 4, 8] (channels last) by a layer, an operator with a second such value, and a layer over the last axis."""

    def __init__(self, operator: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.first, self.second, self.operator = nn.Linear(5, 8), nn.Linear(5, 8), operator

    def forward(self, x: Tensor) -> Tensor:
        y = self.operator(torch.tanh(self.first(x)), torch.tanh(self.second(x)))
        return y.flatten(1).mean(1, keepdim=True)


PICK = torch.tensor([2, 0, 3])


def channels_first(operator: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: operator((x * y).permute(0, 3, 1, 2))


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cdist": lambda x, y: torch.cdist(x.flatten(1, 2), y.flatten(1, 2)),
    "cosine_similarity": lambda x, y: F.cosine_similarity(x, y, dim=-1),
    "pairwise_distance": lambda x, y: F.pairwise_distance(x, y, p=1.0),
    "normalize": lambda x, y: F.normalize(x, dim=-1) + F.normalize(y, dim=1),
    "index": lambda x, y: (x * y)[:, PICK.clone()],
    "index_pair": lambda x, y: (x * y)[:, PICK.clone(), PICK.clone()],
    "index_apart": lambda x, y: (x * y)[PICK[:1].clone() * 0, :, PICK.clone()],
    "gather": lambda x, y: (x * y).gather(1, PICK.clone().view(1, 3, 1, 1).expand(x.shape[0], 3, 4, 8)),
    "index_add": lambda x, y: x.index_add(1, PICK.clone(), y[:, :3]),
    "mean_of_all": lambda x, y: x * y.mean(),
    "sum_of_all": lambda x, y: x * y.sum(dim=[]),
    "mean_of_no_axes": lambda x, y: x * y.mean(dim=[], keepdim=True),
    "triangle_of_channels": lambda x, y: torch.tril(x * y),
    "triangle_of_pixels": channels_first(lambda x: torch.triu(x, 1)),
    "grid": lambda x, y: F.grid_sample(x.permute(0, 3, 1, 2), y[..., :2], align_corners=False),
    "gate": lambda x, y: F.glu(x * y, dim=3),
    "select_scatter": lambda x, y: torch.select_scatter(x, y[:, 1], 1, 2),
    "slice_scatter": lambda x, y: torch.slice_scatter(x, y[..., :4], 3, 2, 6),
    "max_over_channels": lambda x, y: (x * y).max(dim=-1).values,
    "fft_of_pixels": lambda x, y: torch.fft.rfft(x * y, dim=2).abs(),
    "fft_of_channels": lambda x, y: torch.fft.rfft(x * y, dim=3).abs(),
    "diagonal": lambda x, y: (x * y).diagonal(dim1=1, dim2=2),
    "windows": channels_first(lambda x: F.unfold(x, 3, padding=1).square()),
    "there_and_back": channels_first(lambda x: F.fold(F.unfold(x, 2, stride=2), (4, 4), 2, stride=2)),
    "pool_of_pixels": lambda x, y: F.avg_pool2d(x * y, (2, 1), stride=(2, 1)) + F.max_pool2d(x * y, (2, 1)),
    "softmax_in_float": lambda x, y: torch.softmax(x * y, -1, dtype=torch.float32) @ y.transpose(2, 3),
    "unpool": channels_first(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    "pixel_shuffle": channels_first(lambda x: F.pixel_shuffle(x, 2)),
    "pixel_unshuffle": channels_first(lambda x: F.pixel_unshuffle(x, 2)),
    "channel_shuffle": channels_first(lambda x: F.channel_shuffle(x, 2).cumsum(2)),
}
WHOLE = ("fft_of_channels", "triangle_of_channels")  # every channel meets every other, or is told by its place


@pytest.mark.parametrize("name", OPERATORS)
def test_a_cut_before_an_operator_is_the_mask_after_it(name):
    torch.manual_seed(0)
    model = pl.load(Between(OPERATORS[name]).eval(), (torch.randn(2, 4, 4, 5),), name=name)
    found = cut_by(model)
    assert not found.reference.unruled
    assert (found.shapes()["first.weight"][0] == 8) == (name in WHOLE)
    assert found.off() < AGREES


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_the_gates_of_a_cell_lose_the_same_units(cell):
    torch.manual_seed(0)

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = cell(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for t in range(3):
                state = self.cell(x[:, t], state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    found = cut_by(pl.load(Steps().eval(), (torch.randn(2, 3, 5),), name="steps"))
    assert found.shapes()["cell.weight_hh"][1] == 4
    assert found.off() < AGREES

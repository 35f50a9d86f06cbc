"""Which kernels run in low precision: the cut against trying everything."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import nn

import packlight as pl
from packlight.passes.fold import fold
from packlight.search.regions import Passed, Region, kernels_of, slow_kernels
from packlight.targets import get

NUMERICS = get("onnxruntime").numerics


def chain(count: int, shapes=None, weighted=None) -> Region:
    """A float input, kernels one after the other, a float reader at the end."""
    passed = [Passed(None, (0,), False, False, (1,))]
    for i in range(count):
        last = i == count - 1
        passed.append(Passed(i, () if last else (i + 1,), last, True, (1,)))
    names = tuple(f"k{i}" for i in range(count))
    return Region(names, tuple((n,) for n in names), names, weighted or (True,) * count, tuple(passed))


def cost(region: Region, low, full, convert, low_ones: set[int]) -> float:
    total = sum(low[i] if i in low_ones else full[i] for i in range(len(region.names)))
    for value in region.passed:
        narrow, widen = convert[value.shape]
        written_low = value.writer in low_ones
        readers = [r in low_ones for r in value.readers]
        if not written_low and any(readers):
            total += narrow
        if written_low and value.widens and (value.beyond or not all(readers)):
            total += widen
    return total


def test_a_slow_kernel_at_an_end_goes_and_one_in_the_middle_stays_where_conversions_cost_more():
    convert = {(1,): (0.5, 0.5)}
    assert slow_kernels(chain(3), [3.0, 1.0, 1.0], [1.0, 2.0, 2.0], convert, 0.0) == [0]
    assert slow_kernels(chain(3), [1.0, 2.5, 1.0], [3.0, 2.0, 3.0], convert, 0.0) == []
    assert slow_kernels(chain(3), [1.0, 3.5, 1.0], [3.0, 2.0, 3.0], convert, 0.0) == [1]


def test_what_is_only_a_little_slower_stays():
    convert = {(1,): (0.0, 0.0)}
    assert slow_kernels(chain(2), [1.05, 1.0], [1.0, 9.0], convert, 0.0) == [0]
    assert slow_kernels(chain(2), [1.05, 1.0], [1.0, 9.0], convert, 0.1) == []


def test_kernels_that_float_computes_as_one_go_together():
    """The addition takes no time in float, because the convolution before it does it on the way."""
    pair = chain(2, weighted=(True, False))
    convert = {(1,): (0.1, 0.1)}
    assert slow_kernels(pair, [1.0, 1.0], [1.5, 0.0], convert, 0.0) == [0, 1]
    assert slow_kernels(pair, [1.0, 0.3], [1.8, 0.0], convert, 0.0) == []  # the addition alone would look faster


@pytest.mark.parametrize("seed", range(8))
def test_the_cut_is_the_cheapest_of_all_choices(seed: int):
    draw = random.Random(seed)
    count = 7
    names = tuple(f"k{i}" for i in range(count))
    passed = [Passed(None, (0, 1), False, False, (1,))]
    for i in range(count):
        later = tuple(j for j in range(i + 1, count) if draw.random() < 0.4)
        passed.append(Passed(i, later, not later or draw.random() < 0.2, draw.random() < 0.8, (i % 2 + 1,)))
    region = Region(names, tuple((n,) for n in names), names, (True,) * count, tuple(passed))
    low, full = ([draw.uniform(0.1, 2) for _ in names] for _ in range(2))
    convert = {(1,): (0.3, 0.2), (2,): (0.6, 0.5)}
    out = set(slow_kernels(region, low, full, convert, 0.0))
    mine = cost(region, low, full, convert, set(range(count)) - out)
    subsets = (set(c) for n in range(count + 1) for c in itertools.combinations(range(count), n))
    assert mine == pytest.approx(min(cost(region, low, full, convert, s) for s in subsets), abs=1e-6)


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.again(torch.relu(self.same(x))))
        return self.head(x.mean((2, 3)))


def test_a_real_graph_gives_its_kernels_values_and_equal_signatures_for_equal_layers():
    model = fold(pl.load(Shortcut(), torch.zeros(2, 1, 8, 8)))
    region = kernels_of(model, NUMERICS, (), 4)
    assert region.names == ("stem", "same", "again", "add", "head")
    assert region.parts[0] == ("stem", "relu") and region.parts[3] == ("add", "relu_2")
    by_writer = {v.writer: v for v in region.passed}
    assert by_writer[0].readers == (1, 3) and by_writer[0].shape == (4, 4, 8, 8) and not by_writer[0].beyond
    assert by_writer[3].beyond and by_writer[3].widens and not by_writer[4].widens
    assert kernels_of(model, NUMERICS, ("stem",), 4).names == ("same", "again", "add", "head")
    assert region.signatures[1] != region.signatures[0]
    assert kernels_of(model, NUMERICS, (), 8).signatures[0] != region.signatures[0]
    assert kernels_of(model, NUMERICS, (), 4).signatures == region.signatures

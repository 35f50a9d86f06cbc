"""Whole blocks left out."""

from __future__ import annotations

import pytest
import torch
from architectures import build
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.passes.prune.depth import blocks, drop_blocks


class Chain(nn.Module):
    """Three blocks x + f(x), the middle one of which does next to nothing, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))
        with torch.no_grad():
            self.blocks[1][2].weight.mul_(0.001)
            self.blocks[1][2].bias.zero_()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def test_the_block_that_does_least_goes_first() -> None:
    model = pl.load(Chain().eval(), X)
    found = blocks(model)
    assert [b.name for b in found] == ["blocks.0", "blocks.1", "blocks.2"]
    assert {b.params for b in found} == {8 * 16 + 16 + 16 * 8 + 8}
    made = drop_blocks(model, 1, [(X,)])
    assert made.lineage[-1].options["blocks"] == ["blocks.1"] and len(blocks(made)) == 2
    assert torch.allclose(made(X), model(X), atol=0.01)
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in made.parameters()) == found[1].params


def test_what_is_left_is_the_network_without_the_block() -> None:
    net = Chain().eval()
    made = drop_blocks(pl.load(net, X), 2, [(X,)])
    (kept,) = (b.name for b in blocks(made))
    x = net.stem(X)
    assert torch.allclose(made(X), net.head(x + net.blocks[int(kept[-1])](x)), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet", "vit", "bert", "conformer", "mobilenet_v2"])
def test_blocks_of_the_zoo_go_and_the_rest_runs(name: str) -> None:
    module, inputs = build(name)
    model = pl.load(module, inputs, name=name)
    assert blocks(model)
    made = drop_blocks(model, 1, [tuple(model.example_inputs())])
    outputs = made.flat(*model.example_inputs())
    assert [o.shape for o in outputs] == [o.shape for o in model.flat(*model.example_inputs())]
    assert all(bool(torch.isfinite(o).all()) for o in outputs)


BLOCKS = {
    "resnet": [("2", 4736), ("3", 4736), ("5", 18688)],
    "vit": [("blocks.0", 4288), ("blocks.0", 4256), ("blocks.1", 4288), ("blocks.1", 4256)],
    "shufflenet_v2": [],
}  # name and parameters


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_additions_of_a_value_and_of_what_only_it_leads_to(name: str) -> None:
    module, inputs = build(name)
    assert [(b.name, b.params) for b in blocks(pl.load(module, inputs, name=name))] == BLOCKS[name]


def test_a_block_that_is_added_in_place_is_ranked_by_what_it_was_given() -> None:
    class InPlace(Chain):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x += block(x)
            return self.head(x)

    made = drop_blocks(pl.load(InPlace().eval(), X), 1, [(X,)])
    assert made.lineage[-1].options["blocks"] == ["blocks.1"]


def test_more_blocks_than_there_are_and_bad_counts_are_one_line() -> None:
    model = pl.load(Chain().eval(), X)
    with pytest.raises(PacklightError, match="has 3 residual blocks that can be left out, 4 were asked for"):
        drop_blocks(model, 4, [(X,)])
    with pytest.raises(PacklightError, match="count >= 1"):
        drop_blocks(model, 0, [(X,)])


def test_the_given_model_stays_as_it_was() -> None:
    model = pl.load(Chain().eval(), X)
    before = model(X)
    drop_blocks(model, 1, [(X,)])
    assert len(blocks(model)) == 3 and torch.equal(model(X), before)


def test_pruning_leaves_out_blocks_before_it_cuts() -> None:
    model = pl.load(Chain().eval(), X)
    task = pl.Task(calibration=X.numpy(), train=(X.numpy(), torch.zeros(32, dtype=torch.long).numpy()))
    made = pl.prune(model, task, keep=0.9, blocks=1)
    assert [s.name for s in made.lineage[-2:]] == ["drop_blocks", "prune"]
    with pytest.raises(PacklightError, match="data"):
        pl.prune(model, blocks=1)

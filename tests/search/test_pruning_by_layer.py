"""Shares of single layers, and a threshold of scores instead of a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_tasks import digits, trained
from torch import nn
from zoo_sequences import vit

import packlight as pl
from packlight.errors import PacklightError
from packlight.search.pruning.gradual import Gradual
from packlight.search.pruning.recipe import read_prune_recipe
from packlight.search.pruning.widths import widths
from packlight.train import Fit

WIDE = 32


def plain() -> pl.Model:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, WIDE), nn.ReLU(), nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, 3))
    return pl.load(layers.eval(), torch.zeros(2, 8))


def left(before: pl.Model, after: pl.Model) -> dict[str, int]:
    return {w.layer: w.after for w in widths(pl.statistics(before), pl.statistics(after))}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("by", ["params", "channels"])
def test_named_layers_keep_their_share_and_the_rest_meets_the_budget(scope: str, by: str) -> None:
    made = pl.prune(plain(), options=pl.Pruning(0.5, by=by, scope=scope, layers={"0": 0.75}))
    found = left(plain(), made)
    assert found["0"] == 24
    assert found["2"] < 20
    if by == "params":
        assert 0.45 < pl.statistics(made).params / pl.statistics(plain()).params <= 0.5


def test_of_several_patterns_the_last_counts_and_all_layers_may_have_their_own() -> None:
    made = pl.prune(plain(), options=pl.Pruning(0.5, layers={"*": 0.5, "2": 0.25}))
    assert left(plain(), made) == {"0": 16, "2": 8, "4": 3}


def test_layers_that_are_cut_together_have_one_share() -> None:
    made = pl.prune(trained(), options=pl.Pruning(0.1, layers={"body": 0.5}))
    assert left(trained(), made) == {"stem": 8, "body": 8, "head": 10}
    assert any("their shares" in n for n in made.notes)  # a tenth of the parameters was asked for


def test_a_layer_that_keeps_all_is_whole_when_the_rest_is_cut_in_steps() -> None:
    how = pl.Pruning(0.4, layers={"0": 1.0})
    task = pl.Task("points", train=(torch.randn(64, 8).numpy(), torch.randint(3, (64,)).numpy()))
    made = pl.prune(plain(), task, options=how, finetune=Fit(epochs=2, batch=32), steps=2, distillation=None)
    found = left(plain(), made)
    assert found["0"] == WIDE
    assert found["2"] < WIDE / 2
    whole = pl.Pruning(0.4, layers={"0": 0.25})
    assert left(plain(), pl.prune(plain(), task, options=whole, finetune=Fit(epochs=2, batch=32), steps=2))["0"] == 8


def test_heads_of_one_block_keep_their_share() -> None:
    net = pl.load(*vit())
    named = [f.name for f in pl.prunable(net).families if f.kind == "heads"]
    made = pl.prune(net, options=pl.Pruning(0.5, by="channels", kinds="heads", layers={named[0]: 1.0}))
    before, after = left(net, net), left(net, made)
    assert after[named[0]] == before[named[0]]
    assert all(after[n] == before[n] // 2 for n in named[1:])


def test_channels_fade_to_the_share_of_their_layer() -> None:
    made = pl.prune(
        trained(), digits(), options=pl.Pruning(0.9, layers={"stem": 0.5}), finetune=Fit(epochs=0.4, batch=64),
        gradual=Gradual(end=0.5, times=4),
    )  # fmt: skip
    assert left(trained(), made)["stem"] == 8


def dead(count: int) -> pl.Model:
    """With `count` units of the first layer that give next to nothing."""
    net = plain()
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if name.startswith("0."):
                tensor[:count] *= 1e-3
            elif name == "2.weight":
                tensor[:, :count] *= 1e-3
    return net


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_scores_below_the_threshold_goes_and_no_more(scope: str) -> None:
    net = dead(10)
    made = pl.prune(net, options=pl.Pruning(threshold=0.1, scope=scope))
    assert left(net, made) == {"0": WIDE - 10, "2": WIDE, "4": 3}
    x = torch.randn(16, 8)
    torch.testing.assert_close(made(x), net(x), atol=1e-3, rtol=1e-3)
    assert made.lineage[-1].options["threshold"] == 0.1


def test_least_and_multiples_hold_for_a_threshold_too() -> None:
    net = dead(10)
    assert left(net, pl.prune(net, options=pl.Pruning(threshold=0.1, multiple=8)))["0"] == 24
    high = pl.prune(net, options=pl.Pruning(threshold=99, least=0.25))
    assert left(net, high) == {"0": 8, "2": 8, "4": 3}
    assert not high.notes


def test_a_threshold_of_nothing_leaves_the_network_as_it_was() -> None:
    made = pl.prune(plain(), options=pl.Pruning(threshold=0))
    assert left(plain(), made) == left(plain(), plain())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layers": {"0": 0.0}}, r"shares of layers in \(0, 1\], got 0: 0.0"),
        ({"layers": {"0": 1.5}}, "shares of layers"),
        ({"threshold": -1}, "threshold >= 0"),
        ({"threshold": float("nan")}, "threshold >= 0"),
        ({"threshold": 0.1, "by": "latency"}, "not by both"),
    ],
)
def test_shares_and_thresholds_that_cannot_be_are_refused(options: dict, told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        pl.Pruning(**options)


def test_layers_that_are_not_there_or_are_never_cut_are_told() -> None:
    with pytest.raises(PacklightError, match="steem"):
        pl.prune(trained(), options=pl.Pruning(layers={"steem": 0.5}))
    with pytest.raises(PacklightError, match="no layer that head names can be pruned"):
        pl.prune(trained(), options=pl.Pruning(layers={"head": 0.5}))
    with pytest.raises(PacklightError, match="no threshold"):
        pl.prune(trained(), digits(), options=pl.Pruning(threshold=0.1), finetune=Fit(epochs=0.1), gradual=Gradual())


def test_a_recipe_has_them(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("pruning: {threshold: 0.2, layers: {'stem*': 0.75}}\n")
    assert read_prune_recipe(path).pruning == pl.Pruning(threshold=0.2, layers={"stem*": 0.75})
    path.write_text("pruning: {layers: [stem]}\n")
    with pytest.raises(PacklightError, match="layers"):
        read_prune_recipe(path)

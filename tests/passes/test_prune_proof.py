"""What happens when a proof fails: the family is left whole and named. Rules are made wrong for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

import packlight as pl
from packlight.errors import PacklightError
from packlight.passes.prune import Pruning, prune
from packlight.passes.prune.labels import Axis, Layout
from packlight.passes.prune.proof import disagreement
from packlight.passes.prune.rules import RULES, Walk
from packlight.passes.prune.walk import label

HALF = Pruning(keep=0.5, by="channels")


def network() -> pl.Model:
    """Two layers that can be cut, one before a sigmoid and one before a tanh."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    return pl.load(net.eval(), torch.randn(2, 6), name="net")


def backwards(walk: Walk, node: Node) -> Layout:
    """A wrong rule: an operator that turns its channels around, it says."""
    *lead, channels = walk.layout(node.args[0])
    assert channels is not None
    return (*lead, Axis(channels.labels[::-1].copy()))


def widths(model: pl.Model) -> list[int]:
    return [len(p) for n, p in model.named_parameters() if n.endswith("weight")]


def test_with_right_rules_all_is_cut_and_nothing_is_noted() -> None:
    made = prune(network(), HALF)
    assert widths(made) == [4, 4, 3]
    assert not made.notes


def test_a_family_whose_proof_fails_is_left_whole_and_named_and_the_others_are_cut(monkeypatch) -> None:
    monkeypatch.setitem(RULES, "sigmoid", backwards)
    made = prune(network(), HALF)
    assert widths(made) == [8, 4, 3]
    (note,) = made.notes
    assert note.startswith("0 was not pruned: its proof failed: outputs differ by")


def test_when_every_proof_fails_nothing_can_be_pruned(monkeypatch) -> None:
    monkeypatch.setitem(RULES, "sigmoid", backwards)
    monkeypatch.setitem(RULES, "tanh", backwards)
    with pytest.raises(PacklightError, match=r"nothing in net can be pruned \(0 was not pruned: its proof failed"):
        prune(network(), HALF)


def test_where_more_stays_than_was_asked_for_a_note_says_why() -> None:
    made = prune(network(), Pruning(keep=0.5, least=0.9))
    (note,) = made.notes
    left = sum(p.numel() for p in made.parameters()) / sum(p.numel() for p in network().parameters())
    assert left > 0.5
    assert note.startswith(f"{left:.1%} of the params stay, 50.0% were asked for")
    assert "keeps 90% of its width" in note


def off(weight: float, whole_too: bool = False) -> float:
    """How far a network is from the same one with this for a weight of its last layer."""
    whole, small = label(network()), network()
    for model in (small, whole.model) if whole_too else (small,):
        with torch.no_grad():
            model.named_tensors()["4.weight"][0, 0] = weight
    alive = torch.ones(whole.labels.count, dtype=torch.int64).numpy()
    inputs: list[Tensor] = whole.model.example_inputs()
    return disagreement(whole, alive, small, inputs)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_networks_one_of_which_gives_no_number_are_infinitely_far_apart(weight: float) -> None:
    assert off(weight) == float("inf")


def test_networks_that_both_give_no_number_at_the_same_place_agree() -> None:
    assert off(float("nan"), whole_too=True) < 1e-12
    assert off(0.0) > 1e-3

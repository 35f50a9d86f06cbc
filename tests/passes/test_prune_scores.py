"""How much a unit matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.passes.prune import Evidence, Pruning, prunable, prune
from packlight.passes.prune.scores import NAMES, NEEDS_DATA, class_scores
from packlight.testing import PassContract

CROSS_ENTROPY = nn.functional.cross_entropy


def network() -> pl.Model:
    torch.manual_seed(0)
    return pl.load(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.zeros(2, 6))


def evidence(batches: int = 2) -> Evidence:
    draw = torch.Generator().manual_seed(1)
    made = [((torch.randn(16, 6, generator=draw),), torch.randint(0, 3, (16,), generator=draw)) for _ in range(batches)]
    return Evidence(made, lambda outputs, targets: CROSS_ENTROPY(outputs[0], targets))


def units(score: str) -> np.ndarray:
    """[8]: the score of every hidden unit."""
    groups = prunable(network())
    found = class_scores(groups, score, evidence())
    (family,) = groups.families
    return np.array([found[groups.members[a]].sum() for a in family.rows[0]])


def hidden() -> tuple[Tensor, Tensor, Tensor]:
    tensors = network().named_tensors()
    return tuple(tensors[n].detach().double() for n in ("0.weight", "0.bias", "2.weight"))


def products() -> list[np.ndarray]:
    """Of each batch, w · g summed over all that goes with each unit."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    net.load_state_dict({n: t.detach() for n, t in network().named_tensors().items()})
    found = []
    for (x,), y in evidence().batches:
        net.zero_grad()
        CROSS_ENTROPY(net(x), y).backward()
        first, last = net[0], net[2]
        each = (first.weight * first.weight.grad).sum(1) + first.bias * first.bias.grad
        found.append((each + (last.weight * last.weight.grad).sum(0)).detach().double().numpy())
    return found


def test_sizes_are_sums_over_all_that_goes() -> None:
    w, b, v = hidden()
    assert np.allclose(units("l1"), (w.abs().sum(1) + b.abs() + v.abs().sum(0)).numpy())
    assert np.allclose(units("l2"), (w**2).sum(1).add(b**2).add((v**2).sum(0)).numpy())


def test_taylor_squares_the_mean_and_fisher_takes_the_mean_of_squares() -> None:
    first, second = products()
    assert np.allclose(units("taylor"), ((first + second) / 2) ** 2, rtol=1e-4)
    assert np.allclose(units("fisher"), (first**2 + second**2) / 2, rtol=1e-4)


def test_activation_is_the_mean_size_of_what_the_layer_gives() -> None:
    w, b, _ = hidden()
    wanted = sum((x.double() @ w.T + b).abs().mean(0) for (x,), _ in evidence().batches)
    assert np.allclose(units("activation"), wanted.numpy(), rtol=1e-4)


def test_removal_is_the_rise_of_the_loss_without_the_unit() -> None:
    net = network()
    tensors = {n: t.detach().clone() for n, t in net.named_tensors().items()}

    def loss() -> float:
        return float(np.mean([float(evidence().loss(net.flat(*x), y)) for x, y in evidence().batches]))

    before, wanted = loss(), []
    for i in range(8):
        with torch.no_grad():
            net.named_tensors()["2.weight"][:, i] = 0
            wanted.append(max(0.0, loss() - before))
            net.named_tensors()["2.weight"].copy_(tensors["2.weight"])
    assert np.allclose(units("removal"), wanted, atol=1e-6) and max(wanted) > 0


def test_removal_leaves_the_weights_as_they_were() -> None:
    groups = prunable(network())
    class_scores(groups, "removal", evidence())
    theirs = network().named_tensors()
    assert all(torch.equal(t, theirs[n]) for n, t in groups.labelled.model.named_tensors().items())


def test_the_geometric_median_goes_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net[2].weight.fill_(1.0)
        net[0].weight[5] = net[0].weight.mean(0)
    groups = prunable(pl.load(net, torch.zeros(2, 6)))
    found = class_scores(groups, "geometric_median")
    (family,) = groups.families
    first = min(family.rows[0], key=lambda a: found[groups.members[a]].sum())
    assert groups.classes[groups.labelled.layouts[groups.labelled.model.nodes[1]][0].labels][5] in groups.members[first]


def test_random_scores_follow_their_seed() -> None:
    groups = prunable(network())
    one, again, other = (class_scores(groups, "random", seed=s) for s in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.mark.parametrize("score", NEEDS_DATA)
def test_scores_that_need_data_say_so(score: str) -> None:
    with pytest.raises(PacklightError, match="needs data"):
        prune(network(), Pruning(score=score))


@pytest.mark.parametrize("score", sorted(set(NEEDS_DATA) - {"activation"}))
def test_scores_that_need_targets_say_so(score: str) -> None:
    blind = Evidence([((torch.zeros(4, 6),), None)], evidence().loss)
    with pytest.raises(PacklightError, match="targets"):
        prune(network(), Pruning(score=score), blind)


def test_a_gradient_that_is_no_number_is_told_with_its_tensor() -> None:
    bad = Evidence([((torch.full((4, 6), torch.inf),), torch.zeros(4, dtype=torch.long))], evidence().loss)
    with pytest.raises(PacklightError, match=r"gradient of .* is NaN"):
        prune(network(), Pruning(score="taylor"), bad)


@pytest.mark.parametrize("score", NAMES)
def test_every_score_prunes(score: str) -> None:
    made = prune(network(), Pruning(0.6, score=score), evidence())
    assert sum(p.numel() for p in made.parameters()) <= 0.6 * sum(p.numel() for p in network().parameters())


BAD = {
    "keep": {"keep": 0.0}, "keep above": {"keep": 1.5}, "by": {"by": "flops"}, "scope": {"scope": "net"},
    "score": {"score": "size"}, "normalise": {"normalise": "l2"}, "multiple": {"multiple": 0}, "least": {"least": -1},
    "kinds": {"kinds": ("filters",)}, "no kinds": {"kinds": ()}, "seed": {"seed": -1},
}  # fmt: skip


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_options_that_cannot_be_are_one_line(options: dict) -> None:
    with pytest.raises(PacklightError, match=r"^pruning.*\Z") as error:
        Pruning(**options)
    assert "\n" not in str(error.value)


def test_a_layer_that_does_not_exist_is_asked_back() -> None:
    with pytest.raises(PacklightError, match="did you mean"):
        prune(network(), Pruning(exclude="00"))


def test_nothing_to_prune_says_why() -> None:
    with pytest.raises(PacklightError, match=r"nothing in .* can be pruned .*an output of the network"):
        prune(pl.load(nn.Linear(4, 3).eval(), torch.zeros(2, 4)))


def test_excluded_layers_keep_their_outputs() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    made = prune(pl.load(net, torch.zeros(2, 6)), Pruning(0.5, by="channels", exclude="2"))
    assert [tuple(made.named_tensors()[n].shape) for n in ("0.weight", "2.weight", "4.weight")] == [
        (4, 6),
        (8, 4),
        (3, 8),
    ]


class TestContract(PassContract):
    largest_change = None

    def apply(self, model: pl.Model) -> pl.Model:
        return prune(model, Pruning(0.6))

"""Modes of transfer, on a network that knows digits 0 to 5 and is to tell 6 to 9 apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transfer_tasks import high_digits, knowing

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.model.operators import packet
from packlight.task import LoaderData, Task
from packlight.train import Engine, Fit, Schedule
from packlight.train.adapters import adapters, merge, with_adapters
from packlight.train.head import replace_head
from packlight.train.transfer import MODES, Transfer, extract, finetune_all, trained_parameters
from packlight.train.unfreezing import Unfreezing, layer_groups

CHANCE = 25.0  # four classes
HEAD = ("13.weight", "13.bias")
# Forty images: 100 steps of 32, half a second.
OPTIONS = Transfer(fit=replace(Transfer().fit, epochs=50, learning_rate=2e-3))
QUICK = Transfer(fit=Fit(epochs=2), head=Fit(epochs=2))


@pytest.fixture(scope="module")
def task() -> Task:
    return high_digits()


@pytest.fixture(scope="module")
def fresh() -> pl.Model:
    return replace_head(knowing(), 4)


@pytest.fixture(scope="module")
def made(fresh: pl.Model, task: Task) -> dict[str, pl.Model]:
    return {mode: run(fresh, task, OPTIONS, None) for mode, run in MODES.items()}


def changed(before: pl.Model, after: pl.Model) -> set[str]:
    theirs = after.named_tensors()
    return {n for n, t in before.named_tensors().items() if not torch.equal(t, theirs[n])}


def statistics_of(model: pl.Model) -> set[str]:
    return {n for n in model.named_tensors() if "running_" in n}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_learns_new_digits_from_ten_images_of_each(
    mode: str, made: dict[str, pl.Model], fresh: pl.Model, task: Task
) -> None:
    assert evaluate(fresh, task).measurement.value < 1.6 * CHANCE
    assert evaluate(made[mode], task).measurement.low > 3 * CHANCE


@pytest.mark.parametrize("mode", MODES)
def test_the_result_is_the_same_network_with_other_weights(
    mode: str, made: dict[str, pl.Model], fresh: pl.Model, tmp_path: Path
) -> None:
    model = made[mode]
    assert [packet(n) for n in model.nodes] == [packet(n) for n in fresh.nodes]
    assert model.named_tensors().keys() == fresh.named_tensors().keys()
    assert model.outputs == fresh.outputs and not model.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.lineage[-1].options["transfer"] == mode and model.lineage[-2].name == "replace_head"
    x = model.example_inputs(batch=5)
    again = pl.Model.load(model.save(tmp_path / "made.plm"))
    assert torch.equal(again(*x), model(*x))
    torch.testing.assert_close(model(*x).sum(1), torch.ones(5))  # the softmax is there again


def test_extraction_leaves_all_but_the_head_bit_identical(made: dict[str, pl.Model], fresh: pl.Model) -> None:
    assert changed(fresh, made["extract"]) == set(HEAD)


def test_adapters_move_every_weight_but_no_bias_norm_or_statistic(made: dict[str, pl.Model], fresh: pl.Model) -> None:
    assert changed(fresh, made["adapt"]) == {"0.weight", "3.weight", "7.weight", *HEAD}


@pytest.mark.parametrize("mode", ["unfreeze", "full"])
def test_fine_tuning_moves_everything(mode: str, made: dict[str, pl.Model], fresh: pl.Model) -> None:
    assert changed(fresh, made[mode]) == set(fresh.named_tensors())
    assert statistics_of(fresh) <= changed(fresh, made[mode])


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_gives_the_same_bytes(mode: str, fresh: pl.Model, task: Task) -> None:
    one, two = (MODES[mode](fresh, task, QUICK, None) for _ in range(2))
    assert not changed(one, two)


def test_the_given_model_stays_as_it_is(task: Task) -> None:
    given = replace_head(knowing(), 4)
    kept = given.copy()
    for run in MODES.values():
        run(given, task, QUICK, None)
    assert not changed(kept, given)
    assert [packet(n) for n in given.nodes] == [packet(n) for n in kept.nodes]


# extraction


def test_features_are_made_once_without_augmentation(fresh: pl.Model, task: Task) -> None:
    def refuse(x: Any, generator: Any) -> Any:
        raise AssertionError("augmented")

    read = []

    class Counted:
        def __iter__(self) -> Any:
            read.append(1)
            return iter([(task.train.inputs[0], task.train.targets)])

    counted = Task(train=LoaderData(Counted()), augment=refuse)
    len(counted.train)  # reads once, to count
    extract(fresh, counted, QUICK)
    assert len(read) == 2


def test_a_head_stops_early_on_validation_features(fresh: pl.Model, task: Task) -> None:
    patient = Transfer(head=replace(Transfer().head, engine=Engine(patience=2)))
    seen: list[float | None] = []
    made = extract(fresh, task, patient, on_step=lambda p: seen.append(p.validation))
    assert len(seen) < 2 * 60
    best = max(s for s in seen if s is not None)
    assert evaluate(made, task, "validation").measurement.value == pytest.approx(best)


def test_time_counts_the_making_of_features(fresh: pl.Model, task: Task) -> None:
    timed = Transfer(head=Fit(epochs=float("inf"), schedule=Schedule(time_s=0.3)))
    seen: list[int] = []
    extract(fresh, task, timed, on_step=lambda p: seen.append(p.step))
    assert 1 <= len(seen) < 3000


def test_a_loss_of_ones_own_sees_the_networks_outputs(fresh: pl.Model, task: Task) -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(outputs.sum(1), torch.ones(len(outputs)))  # softmax's
        return F.nll_loss(outputs.clamp(min=1e-9).log(), targets)

    own = replace(task, loss=loss)
    for run in MODES.values():
        run(fresh, own, QUICK, None)


def test_a_network_with_two_inputs_is_transferred() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.fc = nn.Embedding(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.fc((self.mix(self.embed(tokens)).relu() * mask[..., None]).sum(1))

    torch.manual_seed(0)
    model = replace_head(pl.load(Two(), (torch.zeros(2, 6, dtype=torch.long), torch.ones(2, 6))), 2)
    generator = np.random.default_rng(0)
    tokens, mask = generator.integers(0, 5, (96, 6)), np.ones((96, 6), np.float32)
    labels = (tokens == 4).any(1).astype(np.int64)
    task = Task(train=((tokens, mask), labels))
    options = Transfer(fit=replace(OPTIONS.fit, epochs=30, learning_rate=0.01))
    for mode, run in MODES.items():
        assert evaluate(run(model, task, options, None), task, "train").measurement.value > 80, mode


def test_data_without_targets_is_refused(fresh: pl.Model, task: Task) -> None:
    with pytest.raises(PacklightError, match="no targets to train a head on"):
        extract(fresh, Task(train=task.train.inputs[0]), QUICK)


# adapters


def test_an_adapter_by_hand() -> None:
    model = pl.load(nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Linear(2, 3)), torch.zeros(2, 2))
    (adapter,) = adapters(model, 4, ("2.weight", "2.bias"))
    assert (adapter.weight, adapter.shape, adapter.rank, adapter.values) == ("1.weight", (2, 2), 1, 4)
    before = model.named_tensors()["1.weight"].detach().clone()
    merge(model, {adapter.down: torch.tensor([[1.0, 2.0]]), adapter.up: torch.tensor([[3.0], [0.0]])}, [adapter], 2.0)
    torch.testing.assert_close(model.named_tensors()["1.weight"].detach(), before + torch.tensor([[6.0, 12.0], [0, 0]]))


def test_adapters_start_from_the_network_as_it_is(fresh: pl.Model) -> None:
    x = fresh.example_inputs(batch=4)
    adapted = with_adapters(fresh, adapters(fresh, 4, HEAD), 16.0, seed=0)
    assert torch.equal(adapted(*x), fresh(*x))
    assert all(a.rank <= 4 and a.values <= np.prod(a.shape) for a in adapters(fresh, 4, HEAD))


@pytest.mark.parametrize("wrong", [1.0, 1.01], ids=["right", "1 % off"])
def test_merged_adapters_give_what_they_gave_beside_the_weights(fresh: pl.Model, wrong: float) -> None:
    wanted = adapters(fresh, 4, HEAD)
    beside = with_adapters(fresh, wanted, 16.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for adapter in wanted:
            up = beside.named_tensors()[adapter.up]
            up.copy_(0.1 * torch.randn(up.shape, generator=generator))
    merged = merge(fresh.copy(), beside.named_tensors(), wanted, 16.0 * wrong)
    x = fresh.example_inputs(batch=8)
    error = float((merged(*x) - beside(*x)).detach().abs().max())
    assert not torch.allclose(merged(*x), fresh(*x), atol=1e-3)
    assert (error < 1e-5) == (wrong == 1.0)  # probabilities, float32 sums in another order


def test_a_weight_that_two_layers_share_has_one_adapter() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.fc = nn.Linear(8, 8), nn.Linear(8, 3)
            self.two = nn.Linear(8, 8)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.two(self.one(x).relu()))

    model = pl.load(Shared(), torch.zeros(2, 8))
    wanted = adapters(model, 2, ("fc.weight",))
    assert len(wanted) == 1
    beside = with_adapters(model, wanted, 4.0, seed=0)
    with torch.no_grad():
        beside.named_tensors()[wanted[0].up].fill_(0.3)
    x = model.example_inputs(batch=4)
    merged = merge(model.copy(), beside.named_tensors(), wanted, 4.0)
    torch.testing.assert_close(merged(*x), beside(*x), rtol=1e-5, atol=1e-5)  # float32 sums in another order


def test_a_network_that_is_all_head_has_nothing_to_adapt(task: Task) -> None:
    model = pl.load(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), torch.zeros(2, 1, 8, 8))
    with pytest.raises(PacklightError, match="no linear or convolution weight below its head"):
        MODES["adapt"](model, task, QUICK, None)
    assert evaluate(extract(model, task), task).measurement.value > 2 * CHANCE


# unfreezing


def test_groups_are_layers_from_the_top(fresh: pl.Model) -> None:
    assert layer_groups(fresh, 4) == [
        list(HEAD), ["7.weight", "7.bias", "8.weight", "8.bias"], ["3.weight", "3.bias", "4.weight", "4.bias"],
        ["0.weight", "0.bias"],
    ]  # fmt: skip
    assert [len(g) for g in layer_groups(fresh, 1)] == [2, 10]
    assert {n for g in layer_groups(fresh, 2) for n in g} == {n for n, _ in fresh.named_parameters()}


@pytest.mark.parametrize(
    ("progress", "wanted"),
    [(0.0, (1, 0, 0)), (0.24, (1, 0, 0)), (0.25, (1, 1 / 2.6, 0)), (0.5, (1, 1 / 2.6, 1 / 2.6**2)),
     (1.0, (1, 1 / 2.6, 1 / 2.6**2))],
)  # fmt: skip
def test_rates_by_hand(progress: float, wanted: tuple[float, ...]) -> None:
    hook = Unfreezing([["head"], ["upper"], ["lower"]], decay=2.6)
    assert [hook.rate(n, progress) for n in ("head", "upper", "lower")] == pytest.approx(wanted)
    assert hook.rate("in no group", progress) == pytest.approx(wanted[-1])


def test_what_is_frozen_does_not_move(fresh: pl.Model, task: Task) -> None:
    """Up to half of the run the lowest group is frozen: with two groups, all but the head."""
    halfway: dict[str, torch.Tensor] = {}

    class Watch(Unfreezing):
        def before_step(self, run: Any) -> None:
            if run.progress < 0.5:
                halfway.update({n: t.detach().clone() for n, t in run.model.named_tensors().items()})

    from packlight.train import fit

    fit(fresh, task, Fit(epochs=4, batch=40), hooks=[Watch(layer_groups(fresh, 1))])
    theirs = fresh.named_tensors()
    assert {n for n, t in halfway.items() if not torch.equal(t, theirs[n])} == set(HEAD)


# options and counts


def test_trained_parameters_by_hand(fresh: pl.Model) -> None:
    head, whole = 4 * 128 + 4, sum(p.numel() for p in fresh.parameters())
    ranks = {(16, 9): 5, (32, 144): 8, (32, 288): 8}  # 16·9 // 25 = 5
    own = sum(rank * (outputs + inputs) for (outputs, inputs), rank in ranks.items())
    counts = [trained_parameters(fresh, mode) for mode in MODES]
    assert counts == [head, head + own, whole, whole]


@pytest.mark.parametrize(
    "bad", [{"rank": 0}, {"alpha": 0}, {"groups": 0}, {"adapter_rate": 0}, {"decay": 0.5}], ids=lambda b: next(iter(b))
)
def test_bad_options_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(PacklightError, match="out of range"):
        Transfer(**bad)


def test_full_fine_tuning_beats_training_from_scratch_on_few_images(task: Task) -> None:
    """The same steps from the same shape of network: what it knows of other digits is what makes the difference."""
    few, options = high_digits(5), Transfer()
    from transfer_tasks import network

    scratch = replace_head(pl.load(network(), torch.zeros(2, 1, 8, 8)), 4)
    knows = replace_head(knowing(), 4)
    after, alone = (evaluate(finetune_all(m, few, options), few) for m in (knows, scratch))
    assert after.drop_from(alone).high < -10  # points

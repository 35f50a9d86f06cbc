"""Pruning with a task: budgets, training between cuts, the control, what needs data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import digits, trained
from torch import nn
from zoo_sequences import lstm, vit

import packlight as pl
from packlight.errors import PacklightError
from packlight.search.pruning.families import cuttable
from packlight.search.pruning.gradual import Fade, Gradual
from packlight.search.pruning.prune import pruned
from packlight.search.pruning.recipe import PruneRecipe, read_prune_recipe
from packlight.search.pruning.sensitivity import sensitivity
from packlight.search.pruning.widths import widths
from packlight.task import Task
from packlight.train import Distillation, Fit, Progress, Recipe, Run, fit, loop

FIT = Fit(epochs=0.3, batch=64, learning_rate=0.02)


def params(model: pl.Model) -> int:
    return pl.statistics(model).params


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 12), nn.Linear(4, 12), nn.Linear(24, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.left(a), self.right(b)], 1).relu())


def pairs() -> Task:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(100, 6)).astype(np.float32), draw.normal(size=(100, 4)).astype(np.float32)
    y = (a[:, 0] + b[:, 0] > 0).astype(np.int64)
    return Task("pairs", train=((a[:60], b[:60]), y[:60]), validation=((a[60:], b[60:]), y[60:]))


@pytest.mark.parametrize("keep", [1.0, 0.7, 0.3])
def test_what_is_left_is_within_the_budget_and_not_far_below(keep: float) -> None:
    left = params(pl.prune(trained(), keep=keep)) / params(trained())
    assert keep - 0.12 <= left <= keep  # a channel of 16 is a ninth of the parameters


def test_keep_overrules_options_and_the_input_is_left_as_it_was() -> None:
    before = {n: t.clone() for n, t in trained().named_tensors().items()}
    made = pl.prune(trained(), keep=0.8, options=pl.Pruning(0.2))
    assert made.lineage[-1].options["keep"] == 0.8
    assert all(torch.equal(t, before[n]) for n, t in trained().named_tensors().items())


def test_least_squares_lose_less_than_the_cut_alone_and_random_loses_more_than_l2() -> None:
    def lost(options: pl.Pruning, **how: bool) -> float:
        made = pl.prune(trained(), digits(), options=options, **how)
        return pl.measure(made, digits(), split="validation")["quality"].value

    l2, bare = lost(pl.Pruning(0.4)), lost(pl.Pruning(0.4), compensate=False)
    drawn = [lost(pl.Pruning(0.4, score="random", seed=s), compensate=False) for s in range(4)]
    assert l2 > bare > np.mean(drawn)


def test_training_comes_after_every_cut_and_follows_the_network_as_it_was() -> None:
    made = pl.prune(trained(), digits(), keep=0.5, finetune=FIT, steps=2)
    assert [s.name for s in made.lineage[-4:]] == ["prune", "finetune"] * 2
    assert made.lineage[-1].options["epochs"] == FIT.epochs / 2
    assert made.lineage[-1].options["teacher"] == "digits-net"
    alone = pl.prune(trained(), digits(), keep=0.5, finetune=FIT, distillation=None)
    assert "teacher" not in alone.lineage[-1].options


def test_the_control_is_the_whole_network_trained_for_as_long() -> None:
    found = pruned(trained(), digits(), pl.Pruning(0.5), options_fit=FIT)
    assert set(found.quality) == {"before", "after", "control"} and found.split == "test"
    assert params(found.control) == params(trained()) and found.control.lineage[-1].name == "finetune"
    values = {name: m.value for name, m in found.quality.items()}
    assert found.drop["control"].value == pytest.approx(values["control"] - values["after"], abs=1e-6)
    assert found.drop["before"].value == pytest.approx(values["before"] - values["after"], abs=1e-6)


def test_without_training_or_when_not_wanted_there_is_no_control() -> None:
    assert pruned(trained(), digits(), pl.Pruning(0.5)).control is None
    assert pruned(trained(), digits(), pl.Pruning(0.5), options_fit=FIT, control=False).control is None


def test_without_labelled_data_there_are_no_scores() -> None:
    assert pruned(trained(), None, pl.Pruning(0.5)).quality == {}
    unlabelled = Task("inputs", calibration=digits().data("train").take(64).inputs[0])
    found = pruned(trained(), unlabelled, pl.Pruning(0.5))
    assert (found.quality, found.split) == ({}, None) and found.model.lineage[-1].options["compensated"] is True


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"compensate": True}, "compensation needs data"),
        ({"finetune": FIT}, "fine-tuning needs data"),
        ({"steps": 2}, "more than one needs training"),
        ({"gradual": pl.Gradual()}, "one run of training"),
        ({"samples": 0}, "samples >= 1"),
        ({"options": pl.Pruning(score="taylor")}, "'taylor' needs data"),
        ({"keep": 0.0}, r"keep in \(0, 1\], got 0.0"),
        ({"keep": float("nan")}, r"keep in \(0, 1\], got nan"),
        ({"options": pl.Pruning(exclude="hed")}, "no layer matches 'hed'; did you mean head"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_done_is_one_clear_error(how: dict, told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        pl.prune(trained(), **how)


def test_compensation_needs_inputs_in_the_task() -> None:
    only_test = Task("t", test=digits().test)
    with pytest.raises(PacklightError, match="compensation needs data"):
        pl.prune(trained(), only_test, compensate=True)
    assert pl.prune(trained(), only_test).lineage[-1].options["compensated"] is False


@pytest.mark.parametrize(
    ("given", "told"),
    [({"keep": 2}, "keep"), ({"by": "depth"}, "by is one of"), ({"scope": "all"}, "scope is one of"),
     ({"score": "l3"}, "score is one of"), ({"normalise": "median"}, "normalise is one of"),
     ({"multiple": 0}, "multiple >= 1"), ({"least": -0.1}, "least in"), ({"seed": -1}, "seed >= 0"),
     ({"kinds": ()}, "cuts channels, heads, width"), ({"kinds": ("rows",)}, "cuts channels, heads, width")],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(given: dict, told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        pl.Pruning(**given)


@pytest.mark.parametrize("score", ["l2", "taylor"])
def test_networks_with_several_inputs_are_cut_with_their_data(score: str) -> None:
    torch.manual_seed(0)
    model = pl.load(Pair(), (torch.zeros(2, 6), torch.zeros(2, 4)))
    made = pl.prune(model, pairs(), options=pl.Pruning(0.5, score=score))
    assert params(made) <= 0.5 * params(model) and made.lineage[-1].options["compensated"] is True
    assert pl.measure(made, pairs(), split="validation")["quality"].n == 40


def test_a_network_of_one_batch_size_is_cut_with_batches_of_that_size() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    fixed = pl.load(net, torch.zeros(48, 1, 8, 8), dynamic={})
    assert fixed.fixed_batch == 48
    made = pl.prune(fixed, digits(), keep=0.5, samples=100)
    assert made.fixed_batch == 48 and made.lineage[-1].options["compensated"] is True
    assert params(made) <= 0.5 * params(fixed)


def test_the_same_seed_gives_the_same_bytes() -> None:
    a, b = (pl.prune(trained(), digits(), keep=0.6, finetune=FIT).named_tensors() for _ in range(2))
    assert all(torch.equal(t, b[n]) for n, t in a.items())


# beside it


def test_widths_are_those_of_the_layers_that_cost() -> None:
    made = pl.prune(trained(), options=pl.Pruning(0.5, by="channels"))
    rows = {w.layer: (w.before, w.after) for w in widths(pl.statistics(trained()), pl.statistics(made))}
    assert rows == {"stem": (16, 8), "body": (16, 8), "head": (10, 10)}


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (lstm, {"embed": (6, 3), "lstm": (16, 8), "head": (3, 3)}),
        (vit, {"patch": (16, 8), "blocks.0.qkv": (48, 24), "blocks.0.proj": (16, 8), "blocks.0.mlp.0": (32, 16)}),
    ],
    ids=["recurrent", "attention"],
)
def test_widths_of_layers_that_are_no_convolutions(make: Any, layers: dict[str, tuple[int, int]]) -> None:
    torch.manual_seed(0)
    model = pl.load(*make())
    made = pl.prune(model, options=pl.Pruning(0.5, by="channels"))
    rows = {w.layer: (w.before, w.after) for w in widths(pl.statistics(model), pl.statistics(made))}
    assert {name: rows[name] for name in layers} == layers
    assert "add" not in rows


def test_a_layer_that_is_gone_has_no_width() -> None:
    before = pl.statistics(trained())
    after = replace(before, layers=tuple(r for r in before.layers if r.name != "body"))
    assert {w.layer: w.after for w in widths(before, after)} == {"stem": 16, "body": 0, "head": 10}


def test_what_a_unit_takes_is_what_a_cut_of_one_takes() -> None:
    (family,) = cuttable(pl.prunable(trained()))
    made = pl.prune(trained(), options=pl.Pruning(15 / 16, by="channels"))
    assert params(trained()) - params(made) == family.params


def test_sensitivity_cuts_one_family_at_a_time_and_keeps_the_network() -> None:
    task = replace(digits(), validation=digits().data("validation").take(100))
    (stem,) = sensitivity(trained(), task, shares=(0.5, 0.25))
    assert (stem.name, stem.units, stem.shares) == ("stem", 16, (0.5, 0.25))
    assert stem.drop[1].value > stem.drop[0].value and stem.drop[0].n == 100
    with pytest.raises(PacklightError, match="shares in"):
        sensitivity(trained(), task, shares=(1.0,))


def test_channels_fade_while_it_trains_and_are_cut_at_its_end() -> None:
    stages: list[str] = []
    options = pl.Pruning(0.4)
    found = pruned(
        trained(), digits(), options, gradual=pl.Gradual(end=0.5), options_fit=Fit(epochs=1, batch=64),
        on_stage=stages.append, control=False,
    )  # fmt: skip
    assert 0.28 <= params(found.model) / params(trained()) <= 0.4 and "training while channels fade" in stages
    cut_first = pruned(trained(), digits(), options, options_fit=Fit(epochs=1, batch=64), control=False)
    assert abs(found.quality["after"].value - cut_first.quality["after"].value) < 5


def test_what_fades_is_zero_at_the_end_may_come_back_before_and_follows_the_schedule() -> None:
    seen: list[tuple[int, bool]] = []

    class Watched(Fade):
        def after_step(self, run: Run) -> None:
            super().after_step(run)
            seen.append(
                (int(self.gone.sum()), all((self.weight(n) * (1 - m) == 0).all() for n, m in self.masks.items()))
            )

        def weight(self, name: str) -> torch.Tensor:
            return self.groups.labelled.model.named_tensors()[name]

    hook = Watched(pl.Pruning(0.4), Gradual(end=0.5, times=4))
    made = fit(trained(), digits(), Fit(epochs=1, batch=64, learning_rate=0.1), hooks=[hook])
    faded, zero = zip(*seen, strict=True)
    assert faded[0] == 0 and list(faded) == sorted(faded) and faded[len(faded) // 4] < faded[-1]
    assert not all(zero) and all(zero[len(zero) // 2 :])  # between two choices they move
    cut = hook.cut(made)
    x = digits().test.inputs[0][:16]
    torch.testing.assert_close(
        made.flat(torch.from_numpy(x))[0], cut.flat(torch.from_numpy(x))[0], rtol=1e-4, atol=1e-4
    )


def test_a_faded_channel_that_training_moves_far_stays() -> None:
    hook = Fade(pl.Pruning(0.7, by="channels"), Gradual(begin=0, end=0.9, times=10))
    run = Run(trained().copy(), steps=10)
    hook.start(run)
    run.step, run.progress = 8, 0.75
    hook.after_step(run)
    first = hook.gone.copy()
    with torch.no_grad():
        for name, mask in hook.masks.items():
            run.model.named_tensors()[name].add_(100 * (1 - mask))
    run.step, run.progress = 9, 0.85
    hook.after_step(run)
    assert first.any() and not (first & hook.gone).any()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Gradual(begin=0.5, end=0.5), "begin < end"),
        (lambda: Gradual(times=0), "times >= 1"),
        (lambda: Fade(pl.Pruning(score="taylor")), "score of weights alone"),
        (lambda: Fade(pl.Pruning(by="latency")), "no latency"),
    ],
)
def test_gradual_pruning_says_what_it_takes(make: Callable[[], object], told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        make()


def test_a_killed_gradual_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    how, kept = Fit(epochs=0.6, batch=64), tmp_path / "run.ckpt"
    pruning, gradual = pl.Pruning(0.4), Gradual(end=0.6, times=8)
    straight = fit(trained(), digits(), how, hooks=[whole := Fade(pruning, gradual)])

    def stop(progress: Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trained(), digits(), how, hooks=[Fade(pruning, gradual)], checkpoint=kept, on_step=stop)
    resumed = fit(trained(), digits(), how, hooks=[again := Fade(pruning, gradual)], checkpoint=kept)
    assert np.array_equal(whole.gone, again.gone)
    for name, tensor in straight.named_tensors().items():
        assert torch.equal(tensor, resumed.named_tensors()[name]), name


def test_a_recipe_is_read_by_its_names(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "pruning: {keep: 0.4, by: macs, kinds: [channels, heads], exclude: head*}\nsteps: 3\nsamples: 64\n"
        "gradual: {end: 0.8}\n"
        "finetune: {fit: {epochs: 2}, distillation: {temperature: 2}}\n"
    )
    assert read_prune_recipe(path) == PruneRecipe(
        pl.Pruning(0.4, "macs", kinds=("channels", "heads"), exclude=("head*",)), steps=3, samples=64,
        gradual=Gradual(end=0.8),
        finetune=Recipe(Fit(epochs=2), Distillation(2)),
    )  # fmt: skip
    path.write_text("")
    assert read_prune_recipe(path) == PruneRecipe()

"""`pl.pack(finetune=…)` and `pl.deep_compression`: smaller files for the same loss, resumed where they were killed."""

import functools
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from small_tasks import digits
from torch import nn

import packlight as pl
from packlight.cosines import Waves
from packlight.measure.quality import evaluate
from packlight.search import packing_trained

BUDGET = "drop<=1points"
FIT = pl.Fit(epochs=30, learning_rate=0.1, weight_decay=0.0)


@functools.cache
def wide():
    """55 thousand weights, many more than the digits need."""
    torch.manual_seed(0)
    layers = OrderedDict(flat=nn.Flatten(), first=nn.Linear(64, 400), relu=nn.ReLU(), second=nn.Linear(400, 64),
                         again=nn.ReLU(), head=nn.Linear(64, 10))  # fmt: skip
    model = pl.load(nn.Sequential(layers), torch.zeros(2, 1, 8, 8), name="wide")
    return pl.finetune(model, digits(), epochs=20, learning_rate=0.1)


def zeros(model, name):
    return float((model.named_tensors()[name] == 0).float().mean())


def waves_gone(model):
    """The share of the first weight's waves that are not there."""
    waves = Waves(8, 8).of(model.named_tensors()["first.weight"].detach()).abs()
    return float((waves < 1e-5 * waves.max()).float().mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def made(folder):
    return pl.pack(
        wide(), folder / "net.plt", digits(), budget=BUDGET, finetune=FIT, checkpoint=folder / "run",
        samples=256, judged=400,
    )  # fmt: skip


@pytest.mark.slow
def test_training_makes_a_smaller_file_for_the_same_budget(made, folder):
    without = pl.pack(wide(), folder / "other.plt", digits(), budget=BUDGET, samples=256, judged=400)
    assert made.drop.value <= 1
    assert made.file_bytes == (folder / "net.plt").stat().st_size < 0.9 * without.file_bytes
    before, after = (evaluate(m, digits(), "validation") for m in (wide(), pl.load(folder / "net.plt")))
    assert after.drop_from(before).value == made.drop.value
    assert zeros(made.model, "second.weight") > 0.9
    assert waves_gone(made.model) > 0.9


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(made, folder, monkeypatch):
    files = sorted(folder.glob("run.*"))
    assert len(files) > 2 and folder / "run.0.1" in files
    calls = []
    pl.pack(
        wide(), folder / "again.plt", digits(), budget=BUDGET, finetune=FIT, checkpoint=folder / "run",
        samples=256, judged=400, on_step=calls.append,
    )  # fmt: skip
    assert (folder / "again.plt").read_bytes() == (folder / "net.plt").read_bytes()
    assert len(calls) <= len(files)  # every training was done already


def test_layers_that_are_excluded_keep_every_weight():
    pruner = packing_trained._Pruner(wide(), digits(), pl.Fit(epochs=1), ("head",), None, None)
    model = pruner.pruned(wide(), 0.3)
    assert zeros(model, "head.weight") == 0
    assert zeros(model, "second.weight") > 0.5 > zeros(model, "first.weight")
    assert waves_gone(model) > 0.5


def test_weights_that_were_pruned_before_are_not_pruned_as_waves():
    before = wide().copy()
    assert packing_trained._smooth(before) == {"first.weight": Waves(8, 8)}
    before.named_tensors()["first.weight"].data[:, ::2] = 0
    assert packing_trained._smooth(before) == {}


def test_shares_are_halved_or_doubled_and_then_what_lies_between():
    def tried(least):
        """All shares, where a budget is kept by this one and larger ones."""
        share, within, beyond, found = 0.1, 1.0, 0.0, []
        while share is not None:
            found.append(share)
            within, beyond = (share, beyond) if share >= least else (within, share)
            share = packing_trained._next(within, beyond)
        return found

    assert tried(0.03) == pytest.approx([0.1, 0.05, 0.025, 0.0354, 0.0297], rel=1e-2)
    assert tried(0.04) == pytest.approx([0.1, 0.05, 0.025, 0.0354, 0.042], rel=1e-2)
    assert tried(0.15) == pytest.approx([0.1, 0.2, 0.1414, 0.168], rel=1e-2)
    assert tried(0.0) == pytest.approx([0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125])
    assert tried(0.9) == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_the_classical_recipe_prunes_shares_and_packs(tmp_path):
    made = pl.deep_compression(
        wide(), tmp_path / "net.plt", digits(), keep=0.1,
        finetune=pl.Fit(epochs=8, learning_rate=0.05), sharing=pl.Fit(epochs=1, learning_rate=1e-3),
    )  # fmt: skip
    opened = pl.load(tmp_path / "net.plt")
    x = opened.example_inputs(3)
    assert torch.equal(opened(*x), made.model(*x))
    tables = [len(t) for name, t in opened.named_tensors().items() if "table" in name]
    assert len(tables) == 3 and max(tables) <= 2**5
    indices = opened.named_tensors()["first.weight_index"]
    assert float((indices == indices.flatten().mode().values).float().mean()) > 0.8  # the entry of weights that are 0
    assert made.drop.value < 3
    assert made.ratio > 8


@pytest.mark.parametrize("keep", [0, 1, -0.5, float("nan")])
def test_a_share_to_keep_outside_of_0_to_1_is_refused(keep, tmp_path):
    with pytest.raises(pl.PacklightError, match="keep takes a share of the weights"):
        pl.deep_compression(wide(), tmp_path / "net.plt", digits(), keep=keep)
    with pytest.raises(pl.PacklightError, match=r"are \.plt files$"):
        pl.deep_compression(wide(), tmp_path / "net.onnx", digits())


def test_nothing_is_mixed_where_inputs_are_integers_or_several(monkeypatch):
    from packlight.train.mixing import can_mix

    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    reads = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    text = pl.load(reads, torch.zeros(2, 4, dtype=torch.long))
    assert can_mix(wide())
    assert not can_mix(text)
    assert not can_mix(pl.load(Two(), (torch.zeros(2, 3), torch.zeros(2, 3))))
    assert packing_trained._SOFT.weight == 1


def test_a_teacher_is_followed_in_the_networks_place(tmp_path):
    """One that is sure of wrong answers does harm; the network itself is the other case."""
    torch.manual_seed(1)
    head = nn.Linear(64, 10)
    with torch.no_grad():
        head.weight.mul_(30)
    stranger = pl.load(nn.Sequential(nn.Flatten(), head), torch.zeros(2, 1, 8, 8))
    task, short = replace(digits(), augment=None), pl.Fit(epochs=4, learning_rate=0.1)
    own, other = (
        packing_trained._Pruner(t, task, short, (), None, None).pruned(wide(), 0.2) for t in (wide(), stranger)
    )
    assert evaluate(other, task, "validation").drop_from(evaluate(own, task, "validation")).value > 5
    with pytest.raises(pl.PacklightError, match="a teacher is of training"):
        pl.pack(wide(), tmp_path / "net.plt", digits(), budget=BUDGET, teacher=stranger)

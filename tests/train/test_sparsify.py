"""Gradual pruning of single weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import digits, model, same
from torch import nn

import packlight as pl
from packlight.cosines import Waves
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.train import Engine, Fit, Sparsify, Sparsity, fit, loop

HOW = Fit(epochs=6, batch=64, learning_rate=0.1)
PICTURE = Waves(8, 8)


def flat() -> pl.Model:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return pl.load(module, torch.zeros(2, 1, 8, 8), name="flat")


def zeros(net, name: str) -> float:
    return float((net.named_tensors()[name] == 0).float().mean())


def test_the_schedule_is_cubic() -> None:
    how = Sparsity(0.8, begin=0.2, end=0.6)
    assert [how.at(p) for p in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0, 0, 0.8 * (1 - 0.125), 0.8, 0.8])


@pytest.mark.parametrize("score", ["magnitude", "movement", "sensitivity"])
def test_the_share_asked_for_is_zero_and_the_network_still_works(score: str) -> None:
    net = fit(model(), digits(), HOW, hooks=[Sparsify(Sparsity(0.8, every=5, score=score))])
    assert zeros(net, "6.weight") == pytest.approx(0.8, abs=1e-3)
    assert zeros(net, "0.weight") == pytest.approx(0.8, abs=0.01)
    assert evaluate(net, digits()).measurement.value > 70


def test_a_global_share_is_of_all_weights_together() -> None:
    net = fit(model(), digits(), HOW, hooks=[Sparsify(Sparsity(0.7, every=5, scope="global"))])
    weights = [net.named_tensors()[n] for n in ("0.weight", "6.weight")]
    total = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert total == pytest.approx(0.7, abs=1e-3)
    assert zeros(net, "0.weight") != pytest.approx(0.7, abs=0.02)


def test_excluded_layers_stay_dense() -> None:
    net = fit(model(), digits(), HOW, hooks=[Sparsify(Sparsity(0.9, exclude=("0.*",)))])
    assert zeros(net, "0.weight") == 0 and zeros(net, "6.weight") > 0.89


def test_a_pruning_run_that_was_stopped_goes_on_with_its_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)

    def stop(progress) -> None:
        if progress.step == 40:
            raise KeyboardInterrupt

    for score in ("magnitude", "movement", "sensitivity"):

        def hooks():
            return [Sparsify(Sparsity(0.8, every=7, score=score))]  # noqa: B023

        whole = fit(model(), digits(), HOW, hooks=hooks())
        with pytest.raises(KeyboardInterrupt):
            fit(model(), digits(), HOW, hooks=hooks(), checkpoint=tmp_path / score, on_step=stop)
        assert same(whole, fit(model(), digits(), HOW, hooks=hooks(), checkpoint=tmp_path / score))


@pytest.mark.parametrize("bad", [{"sparsity": 1.0}, {"sparsity": 0.5, "begin": 0.9, "end": 0.5},
                                 {"sparsity": 0.5, "score": "taste"}], ids=str)  # fmt: skip
def test_settings_out_of_range_are_refused(bad) -> None:
    with pytest.raises(PacklightError):
        Sparsity(**bad)


def test_pruned_weights_do_not_move() -> None:
    hook = Sparsify(Sparsity(0.5, begin=0.0, end=0.1, every=1))
    net = fit(model(), digits(), Fit(epochs=1, batch=64), hooks=[hook])
    for name, mask in hook.masks.items():
        assert torch.equal(net.named_tensors()[name] == 0, ~mask)


@pytest.mark.parametrize("engine", [Engine(ema=0.9), Engine(patience=1)], ids=["average", "best"])
def test_averaged_and_best_weights_are_as_sparse_as_asked_for(engine: Engine) -> None:
    """The average still holds what went, and the best score is often that of the dense network."""
    net = fit(model(), digits(), replace(HOW, epochs=4, engine=engine), hooks=[Sparsify(Sparsity(0.9, every=5))])
    assert zeros(net, "6.weight") == pytest.approx(0.9, abs=1e-3)


def test_weights_of_inputs_that_are_never_there_are_the_least_sensitive() -> None:
    """The outermost columns of a digit are nearly always empty: by magnitude their weights stay, by sensitivity they
    go."""
    kept = {}
    for score in ("magnitude", "sensitivity"):
        hook = Sparsify(Sparsity(0.5, end=0.5, every=5, score=score))
        fit(flat(), digits(), replace(HOW, epochs=2), hooks=[hook])
        kept[score] = hook.masks["1.weight"].float().mean(0)
    inputs = torch.cat([torch.as_tensor(b.inputs[0]) for b in digits().data("train").batches(100)])
    empty = inputs.flatten(1).square().mean(0) < 1e-3
    assert empty.any()
    assert kept["sensitivity"][empty].mean() < 0.25 < kept["magnitude"][empty].mean()


def test_of_sums_of_waves_it_is_waves_that_go() -> None:
    hook = Sparsify(Sparsity(0.9, end=0.5, every=5, scope="global", score="sensitivity"), {"1.weight": PICTURE})
    net = fit(flat(), digits(), HOW, hooks=[hook])
    weight = net.named_tensors()["1.weight"].detach()
    waves, mask = PICTURE.of(weight), hook.masks["1.weight"]
    assert 0.02 < mask.float().mean() < 0.3 and zeros(net, "1.weight") < 0.5
    assert waves[~mask].abs().max() < 1e-5 * waves.abs().max() < waves[mask].abs().max()
    assert evaluate(net, digits()).measurement.value > 70

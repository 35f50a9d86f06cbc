"""Gradual pruning of single weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import digits, model, same

from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.train import Engine, Fit, Sparsify, Sparsity, fit, loop

HOW = Fit(epochs=6, batch=64, learning_rate=0.1)


def zeros(net, name: str) -> float:
    return float((net.named_tensors()[name] == 0).float().mean())


def test_the_schedule_is_cubic() -> None:
    how = Sparsity(0.8, begin=0.2, end=0.6)
    assert [how.at(p) for p in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0, 0, 0.8 * (1 - 0.125), 0.8, 0.8])


@pytest.mark.parametrize("score", ["magnitude", "movement"])
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

    for score in ("magnitude", "movement"):

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

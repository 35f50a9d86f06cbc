"""Regularisers: values by hand, and what they do to a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nets import digits, model
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.train import L1, L2, Entropy, Fit, GroupLasso, Hooks, ResetDropout, Run, fit
from packlight.train.regularise import entropy_bits
from packlight.train.sparsify import Sparsify, Sparsity

WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("penalty", "value"), [(L1(1.0), 7.0), (L2(1.0), 12.5), (GroupLasso(1.0), math.sqrt(2) * 5)],
    ids=lambda p: type(p).__name__,
)  # fmt: skip
def test_a_penalty_by_hand(penalty, value) -> None:
    assert float(penalty.of("w", WEIGHT)) == pytest.approx(value, rel=1e-5)


def test_a_zero_channel_has_a_gradient() -> None:
    weight = WEIGHT.clone().requires_grad_()
    GroupLasso(1.0).of("w", weight).backward()
    assert weight.grad is not None and weight.grad.isfinite().all()


def test_entropy_is_that_of_the_histogram_where_levels_are_whole() -> None:
    levels = torch.tensor([0.0] * 4 + [1.0] * 2 + [-3.0] * 2)
    assert float(entropy_bits(levels, 7)) == pytest.approx(1.5, abs=1e-5)
    assert float(entropy_bits(torch.full((9,), 7.0), 7)) == pytest.approx(0.0, abs=1e-5)


def test_the_gradient_of_entropy_draws_levels_to_the_frequent_one() -> None:
    levels = torch.tensor([0.0] * 20 + [0.4], requires_grad=True)
    entropy_bits(levels, 7).backward()
    assert levels.grad is not None and levels.grad[-1] > 0


def zero_channels(net: pl.Model) -> int:
    weight = net.named_tensors()["0.weight"]
    return int((weight.flatten(1).norm(dim=1) < 0.1).sum())


def test_group_lasso_empties_channels_and_the_control_does_not() -> None:
    how = Fit(epochs=6, batch=64, learning_rate=0.05, weight_decay=0.0)
    assert zero_channels(fit(model(), digits(), how)) == 0
    assert zero_channels(fit(model(), digits(), how, hooks=[GroupLasso(0.02)])) >= 4


def test_the_entropy_penalty_makes_weights_cheaper_to_code() -> None:
    def bits(net: pl.Model) -> float:
        levels = []
        for name in ("0.weight", "6.weight"):
            weight = net.named_tensors()[name].detach()
            levels.append((weight / weight.abs().max() * 7).round().flatten())
        _, counts = np.unique(torch.cat(levels).numpy(), return_counts=True)
        p = counts / counts.sum()
        return float(-(p * np.log2(p)).sum())

    how = Fit(epochs=4, batch=64, learning_rate=0.05)
    plain, cheap = (bits(fit(model(), digits(), how, hooks=h)) for h in ([], [Entropy(1.0, bits=4)]))
    assert cheap < plain - 1.0


def test_the_bits_of_the_levels_are_told_so_that_a_checkpoint_knows_them() -> None:
    assert Entropy(0.1, bits=4).options() == {"Entropy": {"strength": 0.1, "bits": 4}}


def test_excluded_weights_are_left_alone() -> None:
    hook = L1(1.0, exclude=("6.*",))
    hook.start(Run(model(), 1))
    assert list(hook.weights) == ["0.weight"]
    with pytest.raises(PacklightError, match="no layer matches 'head"):
        L1(1.0, exclude=("head*",)).start(Run(model(), 1))


@pytest.mark.parametrize("hook", [L1(1.0, "6.*"), Sparsify(Sparsity(0.5, exclude="6.*"))], ids=["L1", "Sparsify"])
def test_a_bare_string_is_one_pattern(hook: L1 | Sparsify) -> None:
    hook.start(Run(model(), 1))
    assert list(hook.weights) == ["0.weight"] and "6.*" in str(hook.options())


def test_dropout_is_another_one_while_the_run_lasts() -> None:
    net = model(dropout=0.5)
    hooks = Hooks(net, [ResetDropout(0.0)], steps=1)
    net.train()
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(hooks.forward(x), hooks.forward(x))
    hooks.end()
    assert not torch.equal(net.train()(x), net(x))
    with pytest.raises(PacklightError, match="no dropout"):
        Hooks(pl.load(nn.Linear(3, 2), torch.zeros(2, 3)), [ResetDropout(0.1)], steps=1)


@pytest.mark.parametrize("make", [lambda: L1(-1), lambda: Entropy(1, bits=1), lambda: ResetDropout(1.0)])
def test_settings_out_of_range_are_refused(make) -> None:
    with pytest.raises(PacklightError):
        make()

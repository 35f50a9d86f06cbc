"""Batch norms with the statistics of given data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import packlight as pl
from packlight.passes.renorm import rebase, renorm

DATA = [(torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(i)) * 3 + 2,) for i in range(4)]


def network(affine: bool = True) -> pl.Model:
    """Its running statistics, 0 and 1, are far from those of the data."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=affine), nn.ReLU(), nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4, affine=affine),
    )  # fmt: skip
    return pl.load(net, DATA[0][0])


def values(model: pl.Model, name: str) -> torch.Tensor:
    return model.named_tensors()[name].detach()


def test_rebased_norms_have_the_datas_statistics_and_the_same_outputs() -> None:
    model = network()
    made = rebase(model, DATA)
    x = DATA[2][0]
    assert torch.allclose(made(x), model(x), atol=1e-4) and not torch.equal(
        values(made, "1.bias"), values(model, "1.bias")
    )
    seen = torch.cat([torch.conv2d(b[0], values(model, "0.weight"), values(model, "0.bias")) for b in DATA])
    assert torch.allclose(values(made, "1.running_mean"), seen.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(values(made, "1.running_var"), seen.var((0, 2, 3)), rtol=1e-3)


def test_a_rebased_network_in_train_mode_is_close_to_what_it_is_in_eval_mode() -> None:
    model, x = network(), torch.cat([b[0] for b in DATA])
    made = rebase(model, DATA)
    calm = made(x)
    assert torch.allclose(made.train()(x), calm, atol=1e-3)
    assert (model.train()(x) - calm).abs().max() > 1


def test_norms_without_weights_are_left_alone() -> None:
    model = network(affine=False)
    made = rebase(model, DATA)
    assert torch.equal(values(made, "1.running_mean"), values(model, "1.running_mean"))


def test_renormed_networks_compute_what_they_do_in_train_mode() -> None:
    model = network()
    made = renorm(model, [(torch.cat([b[0] for b in DATA]),)])
    x = torch.cat([b[0] for b in DATA])
    assert torch.allclose(made(x), model.train()(x), atol=1e-2) and not made.training


def test_statistics_are_means_over_batches_whatever_the_momentum() -> None:
    made = renorm(network(), DATA)
    each = [renorm(network(), [b]) for b in DATA]
    mean = torch.stack([values(m, "1.running_mean") for m in each]).mean(0)
    assert torch.allclose(values(made, "1.running_mean"), mean, atol=1e-5)
    assert [n.args[6] for n in made.nodes if "batch_norm" in n.name] == [0.1, 0.1]


@pytest.mark.parametrize("change", [rebase, renorm])
def test_the_given_model_stays_as_it_was(change) -> None:
    model = network()
    before = {n: t.clone() for n, t in model.named_tensors().items()}
    change(model, DATA)
    assert all(torch.equal(t, before[n]) for n, t in model.named_tensors().items())

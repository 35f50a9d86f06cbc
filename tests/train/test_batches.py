"""What a run is fed with: whole batches, of what the network takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import packlight as pl
from packlight.errors import PacklightError
from packlight.task import Task
from packlight.train import Engine, Fit, Hook, fit

X = np.random.default_rng(0).normal(size=(33, 4)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 33)


def net(*layers: nn.Module) -> pl.Model:
    return pl.load(nn.Sequential(*(layers or (nn.Linear(4, 3),))), torch.zeros(2, 4), name="net")


class Seen(Hook):
    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []

    def loss(self, run, seen) -> None:
        self.parts.append(seen.inputs[0].detach())


@pytest.mark.parametrize("size", [4, 7, 16, 33])
def test_every_sample_of_a_loader_is_seen_whatever_its_own_batch(size: int) -> None:
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=size)
    hook = Seen()
    fit(net(), Task(train=loader), Fit(epochs=2, batch=10), hooks=[hook])
    assert [len(p) for p in hook.parts] == [10, 10, 10, 3] * 2
    assert torch.equal(torch.cat(hook.parts), torch.tensor(np.concatenate([X, X])))


def test_batches_of_other_shapes_that_would_have_to_be_joined_are_refused() -> None:
    loader = [(X[:4], Y[:4]), (X[:4, :3], Y[:4])]
    with pytest.raises(PacklightError, match="differ in shape and in size from the batch of training"):
        fit(net(), Task(train=loader), Fit(batch=6))


@pytest.mark.parametrize("how", [Fit(batch=32), Fit(batch=11, engine=Engine(accumulate=11))], ids=["last", "parts"])
def test_a_batch_norm_that_sees_one_sample_keeps_its_statistics(how: Fit) -> None:
    """One sample has no variance: torch's is not a number then."""
    trained = fit(net(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), Task(train=(X, Y)), how)
    assert all(t.isfinite().all() for t in trained.named_tensors().values())


@pytest.mark.parametrize(
    ("x", "told"),
    [(X[:, :3], r"got shape \[33, 3\], the model takes float32\[batch, 4\]"), (X.astype(np.float16), "got float16"),
     ((X, X), "takes 1 inputs")],
    ids=["shape", "dtype", "count"],
)  # fmt: skip
def test_data_that_the_network_does_not_take_is_one_clear_error(x, told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        fit(net(), Task(train=(x, Y)), Fit())


def test_a_network_of_a_fixed_batch_says_so_where_a_batch_is_not_full() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            return self.last(x.view(8, 2, 2).reshape(8, 4))

    fixed = pl.load(Fixed(), torch.zeros(8, 4), name="fixed")
    fit(fixed, Task(train=(X[:32], Y[:32])), Fit(batch=8))
    with pytest.raises(PacklightError, match="fixed takes 8 samples at once and failed on a batch of 1"):
        fit(fixed, Task(train=(X, Y)), Fit(batch=8))

"""Mixtures of inputs lie between two of the batch, by the generator that is given, and their labels with them."""

import numpy as np
import pytest
import torch
from small_tasks import digits

import packlight as pl
from packlight.train.batches import Batches
from packlight.train.mixing import labelled, mixing


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_every_mixture_lies_between_its_sample_and_another():
    x, task = torch.eye(6), mixing(digits())
    made, _ = task.mix(x, None, generator(0))
    assert torch.allclose(made.sum(1), torch.ones(6))
    assert ((made > 0).sum(1) <= 2).all() and (made.diagonal() > 0).all()
    assert (made.diagonal() < 1).any()
    assert torch.equal(made, task.mix(x, None, generator(0))[0])
    assert not torch.equal(made, task.mix(x, None, generator(1))[0])


def test_a_part_of_the_samples_is_mixed():
    x = torch.eye(300)
    made, _ = mixing(digits(), part=0.25).mix(x, None, generator(0))
    assert 0.15 < float((made.diagonal() < 1).float().mean()) < 0.35


def test_a_task_keeps_its_own_augmentation_before_the_mixing():
    x = np.zeros((4, 1, 8, 8), np.float32)
    task = mixing(pl.Task(train=(x, np.zeros(4, np.int64)), augment=lambda x, generator: x * 0 + 7))
    assert task.mix is not None
    whole = next(Batches(task, pl.Fit(batch=4)).after(0))
    assert torch.allclose(whole.inputs[0], torch.full((4, 1, 8, 8), 7.0))
    assert whole.index is None  # answers to the data as it is are of no use


def test_labels_are_mixed_as_their_inputs_are():
    task = mixing(pl.Task(train=(np.eye(6, dtype=np.float32), np.arange(6))), classes=6)
    whole = next(Batches(task, pl.Fit(batch=6)).after(0))
    torch.testing.assert_close(whole.targets, whole.inputs[0])  # each input is its own label, one-hot


def test_labels_that_are_to_be_left_out_count_for_nothing():
    labels = torch.tensor([-100, -100, 1])
    _, shares = mixing(digits(), classes=3).mix(torch.eye(3), labels, generator(0))
    assert not shares[:, [0, 2]].any() and 0 < shares[:, 1].sum() < 3


@pytest.mark.parametrize(
    ("targets", "loss", "mixable"),
    [
        (np.zeros(6, np.int64), "cross_entropy", True), (np.zeros(6, np.uint8), "cross_entropy", True),
        (np.zeros(6, np.int64), "mse", False), (np.zeros((6, 2), np.int64), "cross_entropy", False),
        (np.zeros((6, 3), np.float32), "cross_entropy", False),
    ],
)  # fmt: skip
def test_only_labels_of_one_class_each_are_mixed(targets, loss, mixable):
    assert labelled(pl.Task(train=(np.eye(6, dtype=np.float32), targets), loss=loss)) is mixable

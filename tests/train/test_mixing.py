"""Mixtures of inputs lie between two of the batch, by the generator that is given."""

import numpy as np
import torch
from small_tasks import digits

from packlight.train.mixing import mixed, mixing


def test_every_mixture_lies_between_its_sample_and_another():
    x = torch.eye(6)
    made = mixed(x, torch.Generator().manual_seed(0))
    assert torch.allclose(made.sum(1), torch.ones(6))
    assert ((made > 0).sum(1) <= 2).all() and (made.diagonal() > 0).all()
    assert (made.diagonal() < 1).any()
    assert torch.equal(made, mixed(x, torch.Generator().manual_seed(0)))
    assert not torch.equal(made, mixed(x, torch.Generator().manual_seed(1)))


def test_a_task_keeps_its_own_augmentation_before_the_mixing():
    task = mixing(digits(augment=lambda x, generator: x * 0 + 7))
    x = torch.from_numpy(np.zeros((4, 1, 8, 8), np.float32))
    assert torch.allclose(task.augment(x, torch.Generator().manual_seed(0)), torch.full_like(x, 7.0))

"""Inputs between inputs, for networks that follow a teacher: it answers those, too.

Pairs are mixed as in Zhang et al. 2018 (arXiv 1710.09412), with shares drawn evenly. What a mixture should be called is
the teacher's to say (Beyer et al. 2022, arXiv 2106.05237, section 3), and where there are labels theirs, by their
shares. A part of the samples is mixed: a network that is to lose most of its weights has none to spare for answers
between all of them, and without any it learns the data by heart.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from packlight.model import Model
from packlight.task import Task


def can_mix(model: Model) -> bool:
    """Whether inputs of a Model can be mixed: it has one, of floats."""
    return len(model.inputs) == 1 and model.inputs[0].dtype.startswith("float")


def labelled(task: Task) -> bool:
    """Whether the labels of a task's training data can be mixed: each is one class, and the loss is cross entropy."""
    if task.loss != "cross_entropy":
        return False
    targets = next(task.data("train").batches(1)).targets
    return targets is not None and targets.ndim == 1 and targets.dtype.kind in "iu"


def mixing(task: Task, classes: int = 0, part: float = 1.0) -> Task:
    """A task of whose training inputs a part, in (0, 1], are mixtures of two, after its own augmentation, and whose
    labels are shares of `classes`, [n, classes]; with 0, labels stay those of the first of the two."""

    def mix(x: Tensor, targets: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        share, other = torch.rand(len(x), generator=generator), torch.randperm(len(x), generator=generator)
        share = share.where(torch.rand(len(x), generator=generator) < part, 1.0)
        if classes and targets is not None:
            known = (targets >= 0).unsqueeze(1)  # cross entropy leaves negative ones out
            targets = mixed((F.one_hot(targets.long().clamp(0), classes) * known).float(), share, other)
        return mixed(x, share, other), targets

    return replace(task, mix=mix)


def mixed(x: Tensor, share: Tensor, other: Tensor) -> Tensor:
    """Each sample of [n, …] with that of its batch which `other` [n] names, in shares [n] and 1 − share."""
    share = share.reshape(-1, *[1] * (x.dim() - 1)).to(x)
    return share * x + (1 - share) * x[other]

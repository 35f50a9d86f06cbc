"""Inputs between inputs, for networks that follow a teacher: it answers those, too.

Pairs are mixed as in Zhang et al. 2018 (arXiv 1710.09412), with shares drawn evenly; what the mixture should be called
is the teacher's to say (Beyer et al. 2022, arXiv 2106.05237, section 3), so no label is looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from packlight.model import Model
from packlight.task import Task


def can_mix(model: Model) -> bool:
    """Whether inputs of a Model can be mixed: it has one, of floats."""
    return len(model.inputs) == 1 and model.inputs[0].dtype.startswith("float")


def mixing(task: Task) -> Task:
    """A task whose training inputs are mixtures of two, after its own augmentation."""
    own = task.augment

    def augment(x: Tensor, generator: Any) -> Tensor:
        return mixed(x if own is None else own(x, generator), generator)

    return replace(task, augment=augment)


def mixed(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each sample of [n, …] with another of the batch, in shares λ and 1 − λ, λ uniform in 0 … 1."""
    share = torch.rand(len(x), *[1] * (x.dim() - 1), generator=generator).to(x)
    return share * x + (1 - share) * x[torch.randperm(len(x), generator=generator).to(x.device)]

"""Losses as plain functions of flat outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from packlight.errors import PacklightError

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Distillation:
    """Logit distillation from a teacher (Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2).

    temperature: > 0; both softmaxes are taken of logits / temperature, and the loss is multiplied by
    temperature² so that its gradients keep their size. weight: in [0, 1], the share of the distillation
    loss; the rest is the task's own loss. 1 needs no labels.
    """

    temperature: float = 4.0
    weight: float = 0.7

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 <= self.weight <= 1:
            raise PacklightError(
                f"distillation needs temperature > 0 and weight in [0, 1], got {self.temperature} and {self.weight}"
            )


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature² · KL(teacher ‖ student) of softened class scores [n, classes], averaged over samples."""
    if student.shape != teacher.shape:
        raise PacklightError(f"student outputs {list(student.shape)}, teacher {list(teacher.shape)}: they must match")
    soft = F.log_softmax(teacher.float() / temperature, 1)
    mine = F.log_softmax(student.float() / temperature, 1)
    return F.kl_div(mine, soft, reduction="batchmean", log_target=True) * temperature**2


def task_loss(loss: str | Callable[..., Tensor]) -> Loss:
    """A task's loss as a function of (flat outputs, targets)."""
    if callable(loss):
        return lambda outputs, targets: loss(outputs[0] if len(outputs) == 1 else outputs, targets)
    if loss == "cross_entropy":
        return lambda outputs, targets: F.cross_entropy(outputs[0].float(), targets)
    if loss == "mse":
        return lambda outputs, targets: F.mse_loss(outputs[0].float(), targets.float())
    raise PacklightError(f"no loss {loss!r}; choose cross_entropy or mse, or give a callable (outputs, targets)")

"""Losses as plain functions: the task's own, and those by which a student follows a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from packlight.errors import PacklightError

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]
_DKD_BETA = 8.0  # weight of the other classes: Zhao et al. 2022, table 6's for CIFAR-100
_TINY = 1e-8
_IGNORED = -100  # a label that cross entropy leaves out, as torch does


@dataclass(frozen=True)
class Distillation:
    """How a student follows a teacher's class scores.

    temperature: > 0; softmaxes are taken of scores / temperature, and the loss is multiplied by temperature² so that
    its gradients keep their size. weight: in [0, 1], the share of the distillation loss; the rest is the task's own. 1
    needs no labels. kind: "kd" (Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2), "dist" (Huang et al. 2022,
    arXiv 2205.10536: correlations instead of values) or "dkd" (Zhao et al. 2022, arXiv 2203.08679: the true class apart
    from the others; needs labels). standardize: scores less their mean over their deviation first (Sun et al. 2024,
    arXiv 2403.01427), for a student that cannot reach the teacher's range.
    """

    temperature: float = 4.0
    weight: float = 0.7
    kind: str = "kd"
    standardize: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf or not 0 <= self.weight <= 1:
            raise PacklightError(
                f"distillation needs temperature > 0 and weight in [0, 1], got {self.temperature} and {self.weight}"
            )
        if self.kind not in ("kd", "dist", "dkd"):
            raise PacklightError(f"distillation {self.kind!r}: choose kd, dist or dkd")


def score_loss(student: Tensor, teacher: Tensor, targets: Tensor | None, how: Distillation) -> Tensor:
    """The distillation loss of class scores [n, classes, …], averaged over samples, and places where there are any."""
    if student.shape != teacher.shape:
        raise PacklightError(f"student outputs {list(student.shape)}, teacher {list(teacher.shape)}: they must match")
    if student.dim() < 2:
        raise PacklightError(f"distillation is of class scores [n, classes], the outputs are {list(student.shape)}")
    student, teacher = (x.float().movedim(1, -1).flatten(0, -2) for x in (student, teacher))
    if how.standardize:
        student, teacher = standardized(student), standardized(teacher)
    if how.kind == "dist":
        return dist_loss(student, teacher, how.temperature)
    if how.kind == "dkd":
        if targets is None:
            raise PacklightError("dkd tells the true class from the others: it needs labels; choose kd or dist")
        return decoupled_loss(student, teacher, targets.flatten(), how.temperature)
    return distillation_loss(student, teacher, how.temperature)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature² · KL(teacher ‖ student) of softened class scores [n, classes], averaged over samples."""
    soft = F.log_softmax(teacher / temperature, 1)
    mine = F.log_softmax(student / temperature, 1)
    return F.kl_div(mine, soft, reduction="batchmean", log_target=True) * temperature**2


def dist_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature² · (1 − correlation over classes, mean over samples, + the same over samples, mean over classes)."""
    p, q = (F.softmax(x / temperature, 1) for x in (student, teacher))
    return ((1 - _correlation(p, q).mean()) + (1 - _correlation(p.T, q.T).mean())) * temperature**2


def decoupled_loss(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """KL of true class against all others, plus 8 times KL among the others; both times temperature²."""
    true = F.one_hot(targets, student.shape[1]).bool()
    p, q = (F.log_softmax(x / temperature, 1) for x in (student, teacher))
    binary = [torch.stack([x[true], x.masked_fill(true, -math.inf).logsumexp(1)], 1) for x in (p, q)]
    target = F.kl_div(binary[0], binary[1], reduction="batchmean", log_target=True)
    others = [F.log_softmax(x[~true].reshape(len(x), -1) / temperature, 1) for x in (student, teacher)]
    rest = F.kl_div(others[0], others[1], reduction="batchmean", log_target=True)
    return (target + _DKD_BETA * rest) * temperature**2


def standardized(scores: Tensor) -> Tensor:
    """Scores [n, classes] less their mean, over their standard deviation, a sample at a time."""
    return (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True, correction=0) + _TINY)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of attention maps: squares of features [n, c, …] averaged over channels, divided by the map's
    norm; the larger is averaged down to the smaller. Zagoruyko and Komodakis 2016 (arXiv 1612.03928), section 3.1.
    """
    maps = [x.float().square().mean(1) for x in (student, teacher)]
    if maps[0].shape != maps[1].shape:
        if maps[0].dim() != 3 or maps[1].dim() != 3:
            raise PacklightError(f"attention maps {list(maps[0].shape)} and {list(maps[1].shape)} do not match")
        height, width = (min(a, b) for a, b in zip(maps[0].shape[1:], maps[1].shape[1:], strict=True))
        maps = [F.adaptive_avg_pool2d(m, (height, width)) for m in maps]
    mine, theirs = (F.normalize(m.flatten(1), dim=1) for m in maps)
    return (mine - theirs).square().sum(1).mean()


def relation_loss(student: Tensor, teacher: Tensor, heads: int) -> Tensor:
    """KL(teacher ‖ student) of relations among places: softmax(F Fᵀ / √width) of features [n, places, channels] split
    into heads, averaged over rows. Wang et al. 2020 (arXiv 2012.15828, MiniLMv2), section 3.1; the widths may differ.
    """
    found = []
    for x in (student, teacher):
        if x.dim() != 3 or x.shape[2] % heads:
            raise PacklightError(f"relations need features [n, places, channels] for {heads} heads: {list(x.shape)}")
        parts = x.float().reshape(*x.shape[:2], heads, -1).transpose(1, 2)
        found.append(F.log_softmax(parts @ parts.transpose(2, 3) / math.sqrt(parts.shape[-1]), -1).flatten(0, 2))
    if found[0].shape != found[1].shape:
        raise PacklightError(f"student's and teacher's places differ: {list(student.shape)}, {list(teacher.shape)}")
    return F.kl_div(found[0], found[1], reduction="batchmean", log_target=True)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, row by row."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1, eps=_TINY)


def task_loss(loss: str | Callable[..., Tensor]) -> Loss:
    """A task's loss as a function of (flat outputs, targets)."""
    if callable(loss):
        return lambda outputs, targets: loss(outputs[0] if len(outputs) == 1 else outputs, targets)
    if loss == "cross_entropy":
        return lambda outputs, targets: F.cross_entropy(outputs[0].float(), _labels(outputs[0], targets))
    if loss == "mse":
        return _squared_error
    raise PacklightError(f"no loss {loss!r}; choose cross_entropy or mse, or give a callable (outputs, targets)")


def _labels(scores: Tensor, targets: Tensor) -> Tensor:
    """Targets of cross entropy: classes [n, …] of any integer type, or probabilities of the scores' shape."""
    if scores.dim() >= 2 and targets.shape == scores.shape and targets.dtype.is_floating_point:
        return targets
    classes = scores.shape[1] if scores.dim() >= 2 else 0
    if targets.dtype.is_floating_point or targets.is_complex() or targets.shape != (len(scores), *scores.shape[2:]):
        raise PacklightError(
            f"cross entropy needs scores [n, classes] and labels [n] that are integers; the network gives "
            f"{list(scores.shape)}, the targets are {str(targets.dtype).removeprefix('torch.')} {list(targets.shape)}"
        )
    labels = targets.long()
    outside = labels[((labels < 0) | (labels >= classes)) & (labels != _IGNORED)]
    if len(outside):
        raise PacklightError(f"the network tells classes 0 to {classes - 1} apart, a target is {int(outside[0])}")
    return labels


def _squared_error(outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
    if outputs[0].shape != targets.shape:
        raise PacklightError(
            f"mean squared error needs targets of the outputs' shape: the network gives {list(outputs[0].shape)}, the "
            f"targets are {list(targets.shape)}"
        )
    return F.mse_loss(outputs[0].float(), targets.float())

"""Small `.plt` files with training: single weights are pruned while the rest is trained to answer as the network did,
and what is left is rounded at the prices that a budget allows. The share that is left is searched.

What goes is the least sensitive of all layers together (packlight.train.Sparsify), at the pace of Zhu and Gupta 2017
(arXiv 1710.01878); of weights over pictures it is waves that go, unless they were pruned before. On
classes the loss is the difference from the network's own scores; where inputs can be mixed a third of them lie between
two training inputs, and most of the loss is the difference from their labels (packlight.train.mixing). On validation
data of LeNet-300-100 and LeNet-5 a half and a quarter did as well, all and none worse.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packlight.codec import Coder, save_packed
from packlight.cosines import Waves
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.model import Model, pictures_of
from packlight.passes.codebooks import Codebooks, share_weights
from packlight.passes.fold import fold
from packlight.passes.sensitivity.change import DIVERGENCE, distance_for
from packlight.search.packing import Allowed, Packed, Sweep, memory_of
from packlight.task import Task
from packlight.train import Distill, Distillation, Fit, Hook, Progress, Sparsify, Sparsity, fit
from packlight.train.mixing import can_mix, labelled, mixing

_FIRST, _LEAST, _MOST = 0.1, 0.002, 0.8  # shares of the weights kept: the first that is tried, and the bounds
_STEP, _FINEST = 0.5, 0.87  # of the last share, until one keeps the budget and one does not; nothing finer between them
_REST = 0.6  # share of a training after which nothing more is pruned
_SOFT = Distillation(temperature=1.0, weight=1.0)  # the network's answers alone
_BOTH = Distillation(temperature=1.0, weight=0.3)  # of mixtures, whose labels are mixed as well
_MIXED = 1 / 3  # part of the training inputs
_PRUNED = 0.1  # share of zeros from which on they are no accident
_CLASSICAL = 8, 5  # bits of tables: convolutions, other layers (Han et al. 2016, section 5)


def pack_trained(
    model: Model,
    path: Path,
    coder: Coder,
    task: Task,
    allowed: Allowed,
    exclude: tuple[str, ...],
    training: Fit,
    teacher: Model | None = None,
    checkpoint: Path | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Packed:
    """As `pack_within`, of the network as it is and pruned to several shares, each in one training from the network as
    it is: shares are halved while the budget is kept, doubled while it is not, and then what lies between is halved
    twice.
    training: of each share. teacher: who answers in the network's place. checkpoint: each share's file is this name, a
    dot and the share; trainings are the same for all budgets."""
    sweep = Sweep(fold(model).eval(), path, task, allowed, exclude, on_stage)
    sweep.look(model)
    pruner = _Pruner(teacher or model, task, training, exclude, checkpoint, on_step)
    share: float | None = _FIRST
    within, beyond = 1.0, 0.0  # the least share that kept the budget, the largest that did not
    while share is not None:
        on_stage(f"training with {100 * share:.3g} % of the weights")
        if sweep.look(pruner.pruned(model, share)):
            within = share
        else:
            beyond = share
        share = _next(within, beyond)
    return sweep.written(coder)


def _next(within: float, beyond: float) -> float | None:
    """The share to try after these (1 and 0: none yet), None where that would be no news."""
    if within < 1 and beyond > 0:
        middle = (within * beyond) ** 0.5
        return middle if middle <= _FINEST * within else None
    share = beyond / _STEP if beyond > 0 else within * _STEP
    return share if _LEAST <= share <= _MOST else None


@dataclass
class _Pruner:
    teacher: Model
    task: Task
    training: Fit
    exclude: tuple[str, ...]
    checkpoint: Path | None
    on_step: Callable[[Progress], None] | None

    def pruned(self, model: Model, keep: float) -> Model:
        """A Model in which a share of the weights is left, trained."""
        patterns = _parameters_of(model, self.exclude)
        how = Sparsity(1 - keep, end=_REST, scope="global", score="sensitivity", exclude=patterns)
        hook = Sparsify(how, _smooth(model))
        mixed, follows = lessons(model, self.teacher, self.task)
        file = self.checkpoint and self.checkpoint.with_name(f"{self.checkpoint.name}.{keep:.3g}")
        return fit(model, mixed, self.training, hooks=[hook, *follows], checkpoint=file, on_step=self.on_step)


def lessons(model: Model, teacher: Model, task: Task) -> tuple[Task, list[Hook]]:
    """What a network is trained on while it is pruned: the task, mixed where it can be, and what follows the teacher
    where the network chooses among classes."""
    if distance_for(task, model) is not DIVERGENCE:
        return task, []
    mixes = can_mix(model)
    classes = _classes(model) if mixes and labelled(task) else 0
    return mixing(task, classes, _MIXED) if mixes else task, [Distill(teacher, _BOTH if classes else _SOFT)]


def _smooth(model: Model) -> dict[str, Waves]:
    """Of weights over pictures, which are smoother than their zeros would be."""
    tensors = model.named_tensors()
    return {n: w for n, w in pictures_of(model).items() if float((tensors[n] == 0).float().mean()) < _PRUNED}


def _classes(model: Model) -> int:
    """How many a network tells apart, by its scores [n, classes]; 0 where it gives something else."""
    shape = model.outputs[0].shape
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else 0


def deep_compression(
    model: Model,
    path: Path,
    task: Task,
    keep: float,
    bits: int | None,
    exclude: tuple[str, ...],
    training: Fit,
    sharing: Fit,
    checkpoint: Path | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Packed:
    """Deep Compression (Han et al. 2016, arXiv 1510.00149): pruning by magnitude with retraining, k-means tables begun
    linearly and trained on, indices coded as gaps and table entries under fixed frequencies. bits: of the tables; None:
    as there. training: with pruning; sharing: of the tables. checkpoint: as of `pack_trained`."""
    if not 0 < keep < 1:
        raise PacklightError(f"keep takes a share of the weights in (0, 1), got {keep:g}")
    hook = Sparsify(Sparsity(1 - keep, end=_REST, scope="global", exclude=_parameters_of(model, exclude)))
    on_stage(f"training with {100 * keep:.3g} % of the weights")
    file = checkpoint and checkpoint.with_name(f"{checkpoint.name}.{keep:.3g}")
    pruned = fold(fit(model, task, training, hooks=[hook], checkpoint=file, on_step=on_step)).eval()
    on_stage("sharing weights")
    shared = share_weights(pruned, _tables(pruned, bits, exclude))
    on_stage("training the tables")
    shared = fit(shared, task, sharing, on_step=on_step)
    save_packed(shared, path, Coder.FAST)
    drop = None
    if task.validation is not None:
        drop = evaluate(shared, task, "validation").drop_from(evaluate(model, task, "validation"))
    return Packed(path, shared, path.stat().st_size, memory_of(pruned), drop)


def _tables(model: Model, bits: int | None, exclude: tuple[str, ...]) -> Codebooks:
    if bits is not None:
        return Codebooks(bits=bits, exclude=exclude)
    wide, narrow = _CLASSICAL
    tensors = model.named_tensors()
    kernels = [n for n in map(glob.escape, model.layers()) if any(tensors[t].dim() > 2 for t in model.tensors_of(n))]
    return Codebooks(bits=narrow, layers=dict.fromkeys(kernels, wide), exclude=exclude)


def _parameters_of(model: Model, exclude: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns of the parameters with two or more axes that excluded layers read."""
    tensors: dict[str, Any] = model.named_tensors()
    return tuple(glob.escape(n) for n in sorted(model.tensors_of(exclude)) if tensors[n].dim() > 1)

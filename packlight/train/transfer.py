"""Transfer learning: how a network with a fresh head learns a new task. Every mode is Model → Model through `fit`.

Where the task's loss is cross entropy, a softmax or sigmoid behind the head is left out in training, and stands in the
result as before: cross entropy wants scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.operators import packet
from packlight.task import ArrayData, Task
from packlight.train.adapters import Adapting, adapters, merge, with_adapters
from packlight.train.head import head_of
from packlight.train.hooks import Hook
from packlight.train.loop import Progress, fit
from packlight.train.options import Fit
from packlight.train.parts import carried, features_of, head_alone, without_softmax
from packlight.train.processes import Processes
from packlight.train.unfreezing import Unfreezing, layer_groups

OnStep = Callable[[Progress], None]
_LEAST = 0.1  # share of `head.schedule.time_s` that training gets, however long the features took


@dataclass(frozen=True)
class Transfer:
    """How networks are transferred.

    fit: how modes adapt, unfreeze and full train the network. head: how mode extract trains the head on features; its
    `schedule.time_s` counts the making of the features, too. probe: where modes are compared and extract is among them,
    the others go on from its head (linear probing, then fine-tuning: Kumar et al. 2022, arXiv 2202.10054). rank: >= 1,
    of adapters. alpha: > 0, adapters are multiplied by alpha/rank. adapter_rate: > 0, factor on their learning rate.
    groups: >= 1, of layers below the head in mode unfreeze. decay: >= 1, what the learning rate is divided by from a
    group to the one below.
    """

    fit: Fit = Fit(epochs=20, batch=32, learning_rate=1e-3, optimizer="adamw", weight_decay=0.01)
    head: Fit = Fit(epochs=60, batch=32, learning_rate=1e-2, optimizer="adamw", weight_decay=0.01)
    probe: bool = True
    rank: int = 8
    alpha: float = 16.0
    adapter_rate: float = 3.0
    groups: int = 4
    decay: float = 2.6

    def __post_init__(self) -> None:
        wrong = {
            "rank": self.rank < 1, "alpha": not 0 < self.alpha < float("inf"), "groups": self.groups < 1,
            "adapter_rate": not 0 < self.adapter_rate < float("inf"), "decay": not 1 <= self.decay < float("inf"),
        }  # fmt: skip
        for name in (n for n, bad in wrong.items() if bad):
            raise PacklightError(f"Transfer({name}={getattr(self, name)}) is out of range; see its documentation")


STANDARD = Transfer()


def extract(model: Model, task: Task, options: Transfer = STANDARD, on_step: OnStep | None = None) -> Model:
    """Train the head alone, on features that the network below it gives once for every sample, without augmentation.

    They are kept in memory: 4 bytes times the head's inputs a sample. Everything below the head stays as it is.
    """
    began = monotonic()
    alone = head_alone(_in_training(model, task))
    below = features_of(model)
    known = features(below, task, "train", options.head.batch)
    validation = features(below, task, "validation", options.head.batch) if options.head.engine.patience else None
    on_features = Task(task.name, task.metric, train=known, validation=validation, loss=task.loss)
    trained = fit(
        alone, on_features, _less(options.head, monotonic() - began), hooks=[_Told("extract")], on_step=on_step
    )
    return carried(model, trained)


def adapt(model: Model, task: Task, options: Transfer = STANDARD, on_step: OnStep | None = None) -> Model:
    """Train low-rank adapters of linear and convolution weights, and the head; merged into the weights at the end.

    All else is frozen, batch norms' statistics included.
    """
    head = head_of(model)
    wanted = adapters(model, options.rank, head.tensors)
    adapted = with_adapters(_in_training(model, task), wanted, options.alpha, options.fit.seed)
    for node in adapted.nodes:
        if packet(node) == "batch_norm":
            node.meta.pop("modes", None)  # one without weights has no rate to freeze it by
    told = {"transfer": "adapt", "rank": options.rank, "alpha": options.alpha, "adapter_rate": options.adapter_rate}
    hook = Adapting(wanted, head.tensors, options.adapter_rate, told)
    trained = fit(adapted, task, options.fit, hooks=[hook], on_step=on_step)
    return merge(carried(model, trained), trained.named_tensors(), wanted, options.alpha)


def unfreeze(model: Model, task: Task, options: Transfer = STANDARD, on_step: OnStep | None = None) -> Model:
    """Train the head, then group after group of layers from the top, each more slowly than the one above."""
    hook = Unfreezing(layer_groups(model, options.groups), options.decay)
    return carried(model, fit(_in_training(model, task), task, options.fit, hooks=[hook], on_step=on_step))


def finetune_all(model: Model, task: Task, options: Transfer = STANDARD, on_step: OnStep | None = None) -> Model:
    """Train everything at one rate."""
    return carried(model, fit(_in_training(model, task), task, options.fit, hooks=[_Told("full")], on_step=on_step))


# The cheapest first.
MODES: dict[str, Callable[[Model, Task, Transfer, OnStep | None], Model]] = {
    "extract": extract, "adapt": adapt, "unfreeze": unfreeze, "full": finetune_all,
}  # fmt: skip


def trained_parameters(model: Model, mode: str, options: Transfer = STANDARD) -> int:
    """How many values a mode trains."""
    head = head_of(model).tensors
    if mode in ("unfreeze", "full"):
        return sum(p.numel() for p in model.parameters() if p.requires_grad)
    own = sum(model.named_tensors()[name].numel() for name in head)
    return own + (sum(a.values for a in adapters(model, options.rank, head)) if mode == "adapt" else 0)


def features(below: Model, task: Task, split: str, batch: int) -> ArrayData:
    """What a network gives for every sample of a split, with the targets, in memory."""
    device = Processes().device
    below = below.copy().eval().to(device)
    rows: list[NDArray[Any]] = []
    targets: list[NDArray[Any]] = []
    for inputs, labels in _labelled(task, split, batch):
        with torch.inference_mode():
            rows.append(below(*(torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in inputs)).cpu().numpy())
        targets.append(labels)
    if len({x.shape[1:] for x in rows}) != 1:
        raise PacklightError(
            f"features of the {split} data differ in shape from batch to batch; pad the data to one size"
        )
    return ArrayData(np.concatenate(rows), np.concatenate(targets))


def _labelled(task: Task, split: str, size: int) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for batch in task.data(split).batches(size):
        if batch.targets is None:
            raise PacklightError(f"the {split} data of task {task.name!r} has no targets to train a head on; give them")
        yield batch.inputs, batch.targets


def _in_training(model: Model, task: Task) -> Model:
    return without_softmax(model) if task.loss == "cross_entropy" else model


def _less(options: Fit, spent_s: float) -> Fit:
    limit = options.schedule.time_s
    if limit is None:
        return options
    return replace(options, schedule=replace(options.schedule, time_s=max(_LEAST * limit, limit - spent_s)))


class _Told(Hook):
    """Tells the lineage which mode it was."""

    def __init__(self, mode: str):
        self.mode = mode

    def options(self) -> dict[str, Any]:
        return {"transfer": self.mode}

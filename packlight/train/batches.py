"""The training data, a global batch at a time, in an order that (seed, epoch) fixes; augmentation by (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.task import ArrayData, Data, Task
from packlight.task.data import Batch
from packlight.train.options import Fit


@dataclass(frozen=True)
class Part:
    """Samples that one forward pass sees. weight: its share of the global batch. index: as in `Seen`."""

    inputs: tuple[Tensor, ...]
    targets: Tensor | None
    weight: float
    index: Any


@dataclass(frozen=True)
class Whole:
    """A global batch, augmented."""

    inputs: tuple[Tensor, ...]
    targets: Tensor | None
    index: Any

    def parts(self, rank: int, processes: int, count: int) -> Iterator[Part]:
        """This process's share in `count` parts. Every process gets as many; where samples are too few for that, some
        get one of the last again, with weight 0."""
        n = len(self.inputs[0])
        for mine in np.array_split(np.arange(n), processes * count)[rank * count : (rank + 1) * count]:
            where = slice(int(mine[0]), int(mine[-1]) + 1) if len(mine) else slice(n - 1, n)
            yield Part(
                tuple(x[where] for x in self.inputs), None if self.targets is None else self.targets[where],
                len(mine) / n, None if self.index is None else self.index[where],
            )  # fmt: skip


class Batches:
    """A task's training data as numbered global batches."""

    def __init__(self, task: Task, options: Fit):
        self.task, self.options = task, options
        self.data: Data = task.data("train")
        self.an_epoch = math.ceil(len(self.data) / options.batch)

    def after(self, step: int) -> Iterator[Whole]:
        """Batches from a step on, without end."""
        while True:
            epoch, skip = divmod(step, self.an_epoch)
            began = step
            for inputs, targets, index in self._epoch(epoch, skip):
                yield self._augmented(inputs, targets, index, step)
                step += 1
                if step == (epoch + 1) * self.an_epoch:
                    break
            missing = (epoch + 1) * self.an_epoch - step
            if step == began or missing > 1:  # one short: a loader that drops its last batch
                raise PacklightError(
                    f"the training data ended after {self.an_epoch - missing} of {self.an_epoch} batches: shorter than "
                    "the length it states"
                )
            step = (epoch + 1) * self.an_epoch

    def _epoch(self, epoch: int, skip: int) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
        """Arrays are shuffled by (seed, epoch); loaders shuffle themselves, and their batches are joined and cut."""
        size = self.options.batch
        if isinstance(self.data, ArrayData):
            order = np.random.default_rng((self.options.seed, epoch)).permutation(len(self.data))
            for first in range(skip * size, len(self.data), size):
                index = np.sort(order[first : first + size])
                batch = self.data.select(index)
                yield batch.inputs, batch.targets, index
            return
        for i, batch in enumerate(_of_size(self.data.batches(size), size)):
            if i >= skip:
                yield batch.inputs, batch.targets, None

    def _augmented(self, inputs: tuple[Any, ...], targets: Any, index: Any, step: int) -> Whole:
        tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in inputs]
        labels = None if targets is None else torch.from_numpy(np.ascontiguousarray(targets))
        generator = torch.Generator().manual_seed(hash((self.options.seed, step)) & 0x7FFFFFFF)
        if self.task.augment is not None:
            tensors[0], index = self.task.augment(tensors[0], generator), None
        if self.task.mix is not None:
            (tensors[0], labels), index = self.task.mix(tensors[0], labels, generator), None
        return Whole(tuple(tensors), labels, index)


def _of_size(batches: Iterator[Batch], size: int) -> Iterator[Batch]:
    """The samples of batches of at most `size` in batches of exactly that; the last may be smaller."""
    held: list[Batch] = []
    have = 0
    for batch in batches:
        held.append(batch)
        have += len(batch)
        if have >= size:
            whole = _joined(held)
            yield _cut(whole, 0, size)
            have -= size
            held = [_cut(whole, size, size + have)] if have else []
    if held:
        yield _joined(held)


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    columns = [*zip(*(b.inputs for b in batches), strict=True)]
    labels = [b.targets for b in batches if b.targets is not None]
    if any(len({x.shape[1:] for x in column}) > 1 for column in (*columns, labels)):
        raise PacklightError(
            "the loader's batches differ in shape and in size from the batch of training; pad the data to one size, or "
            "choose Fit(batch=…) as the loader's own"
        )
    return Batch(tuple(map(np.concatenate, columns)), np.concatenate(labels) if labels else None)


def _cut(batch: Batch, first: int, last: int) -> Batch:
    targets = None if batch.targets is None else batch.targets[first:last]
    return Batch(tuple(x[first:last] for x in batch.inputs), targets)

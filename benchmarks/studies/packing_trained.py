"""What a network takes to download where training is allowed: `.plt` files after pruning and training within budgets of
0.1 and 0.5 points, as measured and at a confidence of 0.8, beside the Deep Compression recipe with trainings as long,
and the dense network, trained as the pruned ones are, as a control. Parts "-taught" follow a better network instead of
the network itself, the control too.

Drops that choose are on validation data, those given on the 10,000 test images, paired with the float network. Of Deep
Compression, the smallest file within 0.5 points on validation data of those of all shares and bits tried, else the one
that loses least.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

import packlight as pl
from benchmarks.case import Case, named
from benchmarks.ledger import Finding, finding
from benchmarks.sizes import sized
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.model import Model
from packlight.search.packing_trained import lessons
from packlight.task import Task
from packlight.train import fit

FAST = pl.Engine(precision="bf16", channels_last=True)
TRAININGS = {  # of each share of the weights
    "lenet300": pl.Fit(epochs=100, learning_rate=0.1, weight_decay=0.0),
    "lenet5": pl.Fit(epochs=30, learning_rate=0.05, weight_decay=0.0, engine=FAST),
    "resnet20": pl.Fit(epochs=8, learning_rate=0.05, weight_decay=0.0, engine=FAST),
}
TEACHERS = {"lenet300": "lenet5", "lenet5": "resnet20"}
PARTS = (*TRAININGS, *(f"{name}-taught" for name in TEACHERS))
PLAIN = ("lenet300",)  # trained without the task's augmentation, as it was at first
BUDGETS = 0.5, 0.1  # points
CONFIDENCES = 0.5, 0.8
SHARES = {"lenet300": (0.1, 0.05, 0.03), "lenet5": (0.1, 0.05, 0.03), "resnet20": (0.4, 0.2)}  # of Deep Compression
BITS = 5, 4
ENOUGH = 0.5  # points


def study(part: str, folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    name, _, taught = part.partition("-")
    training = TRAININGS[name]
    model, task = to_train(named(name))
    teacher = named(TEACHERS[name]).load(quick=False)[0] if taught else model
    way = f"taught by {TEACHERS[name]}" if taught else "trained"
    before = evaluate(model, task)
    for most, confidence in itertools.product(BUDGETS, CONFIDENCES):
        began = time.monotonic()
        packed = pl.pack(
            model, folder / f"{part}.plt", task, budget=f"drop<={most}points", confidence=confidence,
            finetune=training, teacher=teacher, checkpoint=folder / part,
        )  # fmt: skip
        sure = f", confidence {confidence}" if confidence > 0.5 else ""
        form = f"{name}, .plt {way} within {most} points{sure}"
        yield from sized(form, packed.file_bytes, model, evaluate(packed.model, task).drop_from(before))
        if packed.drop is not None:
            yield finding(form, "drop on validation data", packed.drop)
        yield finding(form, "seconds", Measurement.exact(time.monotonic() - began, "s"))
    if not taught:
        made, size, form = _classical(model, task, SHARES[name], training, folder / f"{name}-dc.plt")
        yield from sized(f"{name}, Deep Compression, {form}", size, model, evaluate(made, task).drop_from(before))
    mixed, follows = lessons(model, teacher, task)
    dense = fit(model, mixed, training, hooks=follows)
    yield finding(f"{name}, dense, {way} alike", "drop", evaluate(dense, task).drop_from(before))


def to_train(case: Case) -> tuple[Model, Task]:
    """The network and the task that it is trained on."""
    model, task = case.load(quick=False)
    return model, replace(task, augment=None) if case.name in PLAIN else task


def _classical(
    model: Model, task: Task, shares: tuple[float, ...], training: pl.Fit, path: Path
) -> tuple[Model, int, str]:
    tried = []
    for keep in shares:
        for bits in BITS:
            packed = pl.deep_compression(
                model, path, task, keep=keep, bits=bits, finetune=training, checkpoint=path,
                sharing=pl.Fit(epochs=1, learning_rate=training.learning_rate / 50),
            )  # fmt: skip
            assert packed.drop is not None
            lost = packed.drop.value
            rank = (0, packed.file_bytes) if lost <= ENOUGH else (1, lost)
            tried.append((rank, len(tried), packed, f"{keep:.0%} kept, {bits} bits"))
    _, _, packed, form = min(tried)
    return packed.model, packed.file_bytes, form

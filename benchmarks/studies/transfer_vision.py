"""A vision network that knows six kinds of clothing learns the other four from 100 images each.

Pretrained: ResNet-8 on all training images of the first six classes of Fashion-MNIST. Transfer: 100 images of each of
the other four for training, 100 more for validation, their 4,000 test images for the verdict; every mode of `transfer`,
and as the control the same network from random weights, trained on the same 400 images for 60 epochs. Three seeds draw
the images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks.ledger import Finding, finding
from benchmarks.studies.distillation import over_images, over_seeds
from packlight import networks
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.task import ArrayData, Task
from packlight.train import Engine, Fit, fit

OLD, NEW = tuple(range(6)), tuple(range(6, 10))
SEEDS, EACH = (0, 1, 2), 100
MODES = ("extract", "adapt", "unfreeze", "full")
SCRATCH = Fit(epochs=60, batch=32, learning_rate=0.1)


def study(folder: Path) -> Iterator[Finding]:
    whole = Task.named("fashion-mnist")
    known = _pretrained(folder, whole)
    yield finding("pretrained on six classes", "accuracy there", evaluate(known, _of(whole, OLD)).measurement)
    rows: dict[str, list] = {}
    for seed in SEEDS:
        task = _few(whole, seed)
        for mode in MODES:
            began = time.monotonic()
            made = pl.transfer(known, task, modes=(mode,)).model
            yield from _scored(rows, mode, seed, evaluate(made, task).rows, time.monotonic() - began)
        began = time.monotonic()
        torch.manual_seed(seed)
        fresh = pl.load(networks.resnet8(classes=len(NEW)), torch.zeros(2, 1, 28, 28))
        made = fit(fresh, task, replace(SCRATCH, seed=seed))
        yield from _scored(rows, "from scratch", seed, evaluate(made, task).rows, time.monotonic() - began)
    for mode, hits in rows.items():
        yield finding(mode, "accuracy", over_images(100 * np.mean(hits, axis=0), "%"))
    for mode in MODES:
        gains = [a - b for a, b in zip(rows[mode], rows["from scratch"], strict=True)]
        yield finding(f"{mode} − from scratch", "gain over images", over_images(100 * np.mean(gains, axis=0), "points"))
        yield finding(f"{mode} − from scratch", "gain over seeds", over_seeds([100 * float(g.mean()) for g in gains]))


def _scored(rows: dict[str, list], mode: str, seed: int, hits: np.ndarray, seconds: float) -> Iterator[Finding]:
    rows.setdefault(mode, []).append(hits)
    yield finding(f"{mode}, seed {seed}", "training_s", Measurement.exact(seconds, "s"))


def _pretrained(folder: Path, whole: Task) -> pl.Model:
    path = folder / "six.plm"
    if not path.exists():
        torch.manual_seed(0)
        fresh = pl.load(networks.resnet8(classes=len(OLD)), torch.zeros(2, 1, 28, 28), name="six_classes")
        how = Fit(epochs=5, learning_rate=0.1, engine=Engine("bf16", channels_last=True))
        fit(fresh, _of(whole, OLD), how).save(path)
    return pl.load(path)


def _of(whole: Task, classes: tuple[int, ...]) -> Task:
    """The task on some of its classes, numbered from 0."""
    parts = {split: _chosen(whole, split, classes, None) for split in ("train", "validation", "test", "calibration")}
    return replace(whole, name="some-classes", **parts)


def _few(whole: Task, seed: int) -> Task:
    """EACH training and EACH validation images of every new class, drawn by seed; all their test images."""
    train = _chosen(whole, "train", NEW, np.random.default_rng((0, seed)))
    validation = _chosen(whole, "validation", NEW, np.random.default_rng((1, seed)))
    parts = {"train": train, "calibration": train, "validation": validation, "test": _chosen(whole, "test", NEW, None)}
    return replace(whole, name="four-classes", **parts)


def _chosen(whole: Task, split: str, classes: tuple[int, ...], draw: np.random.Generator | None) -> ArrayData:
    data = whole.data(split)
    places = [np.flatnonzero(data.targets == c) for c in classes]
    if draw is not None:
        places = [draw.permutation(p)[:EACH] for p in places]
    kept = data.subset(np.sort(np.concatenate(places)))
    kept.targets = np.searchsorted(classes, kept.targets)
    return kept

"""A small student with a teacher and, as the control, without: same weights to start from, data order and schedule.

Teacher: the demo's ResNet-20. Student: a ResNet-8 of half the width, a thirteenth of its parameters. Full
Fashion-MNIST in four fixed augmented copies, two and a half epochs of those, so that the teacher is asked once about
each image and its answers serve every epoch and seed. Three seeds, judged on the 10,000 test images. Temperature and
weight are packlight's defaults, not tuned here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks import ROOT
from benchmarks.ledger import Finding, finding, packed
from packlight import students
from packlight.measure import Measurement, intervals
from packlight.measure.quality import evaluate
from packlight.task import ArrayData, Task
from packlight.task.metrics import accuracy
from packlight.train import Distill, Fit, fit

SEEDS = (0, 1, 2)
WIDTH, COPIES = 0.5, 4
HOW = Fit(epochs=2.5, learning_rate=0.1)
TEACHER = ROOT / "packlight" / "data" / "resnet20_fashion_mnist.plm"
Array = np.ndarray


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task, teacher = copied(Task.named("fashion-mnist")), pl.load(TEACHER)
    rows: dict[str, list[Array]] = {"control": [], "distilled": []}
    for seed in SEEDS:
        for arm, hits in rows.items():
            right, seconds, teacher_s = _arm(folder, seed, arm, task, teacher)
            hits.append(right)
            score = intervals.quality(right, accuracy())
            yield finding(f"{arm}, seed {seed}", "accuracy", score, right=packed(right[:, 0] == 1))
            yield finding(f"{arm}, seed {seed}", "training_s", Measurement.exact(seconds, "s"))
            if arm == "distilled":
                yield finding(f"{arm}, seed {seed}", "teacher_s", Measurement.exact(teacher_s, "s"))
    gains = [distilled - control for control, distilled in zip(rows["control"], rows["distilled"], strict=True)]
    for arm, hits in rows.items():
        yield finding(arm, "accuracy", over_images(100 * np.mean(hits, axis=0), "%"))
    yield finding("distilled − control", "gain over images", over_images(100 * np.mean(gains, axis=0), "points"))
    yield finding("distilled − control", "gain over seeds", over_seeds([100 * float(g.mean()) for g in gains]))


def copied(task: Task) -> Task:
    """The task with COPIES augmented copies of its training images, and no other augmentation."""
    data = task.data("train")
    pixels = torch.from_numpy(data.inputs[0]).float()
    made = [task.augment(pixels, torch.Generator().manual_seed(i)).to(torch.uint8).numpy() for i in range(COPIES)]
    train = ArrayData(np.concatenate(made), np.tile(data.targets, COPIES), scale=data.scale, shift=data.shift)
    return replace(task, train=train, augment=None)


def _arm(folder: Path, seed: int, arm: str, task: Task, teacher: pl.Model) -> tuple[Array, float, float]:
    """Hits [10,000, 1] of the trained student, seconds, and of those the teacher's."""
    path = folder / f"{arm}-{seed}.npz"
    if not path.exists():
        module = students.make("resnet8", 10, (1, 28, 28), WIDTH, seed)
        student = pl.load(module, torch.zeros(2, 1, 28, 28), name="student")
        distill = Distill(teacher, cache=folder / "answers")
        began = time.monotonic()
        made = fit(student, task, replace(HOW, seed=seed), hooks=[distill] if arm == "distilled" else [])
        seconds = time.monotonic() - began
        np.savez(path, rows=evaluate(made, task).rows, seconds=seconds, teacher_s=distill.teacher_s)
    with np.load(path) as kept:
        return kept["rows"], float(kept["seconds"]), float(kept["teacher_s"])


def over_images(values: Array, unit: str) -> Measurement:
    """The mean of per-image values [n, 1], each already a mean over seeds, with its interval over images."""
    low, high = intervals.resampled(len(values), lambda index: float(values[index].mean()))
    return Measurement(float(values.mean()), unit, len(values), low, high)


def over_seeds(values: list[float]) -> Measurement:
    """The mean over seeds with Student's t interval."""
    from scipy.stats import t

    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(t.ppf((1 + intervals.LEVEL) / 2, len(values) - 1)) * spread
    return Measurement(mean, "points", len(values), mean - reach, mean + reach)

"""A small student with a teacher and, as the control, without: same weights to start from, data order and schedule.

Student: ResNet-8 at 0.6 of its width (28,047 parameters, a tenth of the teacher's). Teacher: the demo's ResNet-20.
Full Fashion-MNIST, three seeds, judged on the 10,000 test images. Recipe and distillation are defaults of the field and
of packlight (temperature 4, weight 0.7), not tuned here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks import ROOT
from benchmarks.ledger import Finding, finding, packed
from packlight import networks
from packlight.measure import Measurement, intervals
from packlight.measure.quality import evaluate
from packlight.task import Task
from packlight.task.metrics import accuracy
from packlight.train import Distill, Engine, Fit, fit

SEEDS = (0, 1, 2)
WIDTH = 0.6
EPOCHS = 6.0
TEACHER = ROOT / "packlight" / "data" / "resnet20_fashion_mnist.plm"
Array = np.ndarray


def study(folder: Path) -> Iterator[Finding]:
    task, teacher = Task.named("fashion-mnist"), pl.load(TEACHER)
    rows: dict[str, list[Array]] = {"control": [], "distilled": []}
    for seed in SEEDS:
        for arm, hits in rows.items():
            right, seconds, teacher_s = _arm(folder, seed, arm, task, teacher)
            hits.append(right)
            score = intervals.quality(right, accuracy())
            yield finding(f"{arm}, seed {seed}", "accuracy", score, right=packed(right[:, 0] == 1))
            yield finding(f"{arm}, seed {seed}", "training_s", Measurement.exact(seconds, "s"), teacher_s=teacher_s)
    gains = [distilled - control for control, distilled in zip(rows["control"], rows["distilled"], strict=True)]
    for arm, hits in rows.items():
        yield finding(arm, "accuracy", over_images(100 * np.mean(hits, axis=0), "%"))
    yield finding("distilled − control", "gain over images", over_images(100 * np.mean(gains, axis=0), "points"))
    yield finding("distilled − control", "gain over seeds", over_seeds([100 * float(g.mean()) for g in gains]))


def _arm(folder: Path, seed: int, arm: str, task: Task, teacher: pl.Model) -> tuple[Array, float, float]:
    """Hits [10,000, 1] of the trained student, seconds, and of those the teacher's."""
    path = folder / f"{arm}-{seed}.npz"
    if not path.exists():
        torch.manual_seed(seed)
        student = pl.load(networks.resnet8(width=WIDTH), torch.zeros(2, 1, 28, 28), name="student")
        how = Fit(epochs=EPOCHS, learning_rate=0.1, seed=seed, engine=Engine("bf16", channels_last=True))
        distill = Distill(teacher)
        began = time.monotonic()
        made = fit(student, task, how, hooks=[distill] if arm == "distilled" else [])
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

"""Training through the quantizers: weights and scales are learned, after the float network.

ResNet-20 with four bits of activations, two and four of weights (first and last layer: eight), one to twelve passes
over fixed augmented copies of Fashion-MNIST, distilled; from nearest rounding where nothing else is said. `fixed
scales` is the same training with the scales that calibration set. Judged on the 10,000 test images, paired.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

import packlight as pl
from benchmarks import ROOT, SCRATCH
from benchmarks.ledger import Finding, finding, packed
from benchmarks.studies.distillation import COPIES, copied
from benchmarks.studies.quantization_bits import BLOCK, NETWORKS
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.passes.quantize import Bits, Quantization, Rounding, quantize
from packlight.targets import get
from packlight.task import Task
from packlight.train import Distill, Fit, Hook, LearnScales, fit

HOW = Fit(learning_rate=0.01)


def _of(bits: int, rounding: str | Rounding = "nearest") -> Quantization:
    return Quantization(bits=Bits(weights=bits, activations=4), samples=512, rounding=rounding)


ARMS: dict[str, tuple[Quantization, int, bool]] = {  # start, passes, whether scales are learned
    "ResNet-20 W4A4, learned scales, 2 passes": (_of(4), 2, True),
    "ResNet-20 W2A4, fixed scales": (_of(2), 1, False),
    "ResNet-20 W2A4, learned scales": (_of(2), 1, True),
    "ResNet-20 W2A4, learned scales, 3 passes after block reconstruction": (_of(2, BLOCK), 3, True),
    "ResNet-20 W2A4, learned scales, 12 passes after block reconstruction": (_of(2, BLOCK), 12, True),
}


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task, numerics = Task.named("fashion-mnist"), get("onnxruntime").numerics
    model = pl.load(ROOT / NETWORKS["resnet20"])
    data, before = copied(task), evaluate(model, task)
    for name, (start, passes, learned) in ARMS.items():
        path, began = folder / f"{name}.plm", time.monotonic()
        if not path.exists():
            small = quantize(model, task, numerics, start)
            hooks: list[Hook] = [Distill(model, cache=SCRATCH / "studies" / "answers_resnet20")]
            how = replace(HOW, epochs=passes / COPIES)
            fit(small, data, how, hooks=[*hooks, LearnScales()] if learned else hooks).save(path)
        yield finding(name, "training_s", Measurement.exact(time.monotonic() - began, "s"))
        scores = evaluate(pl.load(path), task)
        yield finding(name, "accuracy", scores.measurement, right=packed(scores.rows[:, 0] == 1))
        yield finding(name, "drop", scores.drop_from(before))

"""Training through the quantizers: weights and scales are learned, after the float network.

ResNet-20 with four bits of activations, two and four of weights (first and last layer: eight), from nearest rounding;
one pass over fixed augmented copies of Fashion-MNIST, distilled. `fixed scales` is the same training with the scales
that calibration set. Judged on the 10,000 test images, paired.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

import packlight as pl
from benchmarks import ROOT, SCRATCH
from benchmarks.ledger import Finding, finding, packed
from benchmarks.studies.distillation import copied
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.targets import get
from packlight.task import Task
from packlight.train import Distill, Fit, Hook, LearnScales, fit

COPIES = 4
HOW = Fit(epochs=1 / COPIES, learning_rate=0.01)
ARMS: dict[str, tuple[int, bool]] = {  # bits of weights, whether scales are learned
    "W4A4, learned scales": (4, True),
    "W2A4, learned scales": (2, True),
    "W2A4, fixed scales": (2, False),
}


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task, numerics = Task.named("fashion-mnist"), get("onnxruntime").numerics
    model = pl.load(ROOT / "packlight" / "data" / "resnet20_fashion_mnist.plm")
    data = copied(task)
    before = evaluate(model, task)
    for name, (bits, learned) in ARMS.items():
        path, began = folder / f"{name}.plm", time.monotonic()
        if not path.exists():
            small = quantize(model, task, numerics, Quantization(bits=Bits(weights=bits, activations=4), samples=512))
            hooks: list[Hook] = [Distill(model, cache=SCRATCH / "studies" / "answers")]
            fit(small, data, HOW, hooks=[*hooks, LearnScales()] if learned else hooks).save(path)
        yield finding(name, "training_s", Measurement.exact(time.monotonic() - began, "s"))
        scores = evaluate(pl.load(path), task)
        yield finding(name, "accuracy", scores.measurement, right=packed(scores.rows[:, 0] == 1))
        yield finding(name, "drop", scores.drop_from(before))

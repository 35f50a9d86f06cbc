"""Bits by layer at the bytes of four bits for all: equal, by a threshold of each weight's error, by measured damage.

512 calibration images of Fashion-MNIST, no labels; judged on the 10,000 test images by ONNX Runtime, paired with the
float file and with the row of equal bits. Activations have 8 bits; no layer is kept apart.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import packlight as pl
from benchmarks import ROOT
from benchmarks.ledger import Finding, finding, packed
from benchmarks.studies.quantization_bits import NETWORKS, bits_a_weight
from packlight.measure import Measurement
from packlight.measure.quality import Scores, evaluate_artifact
from packlight.task import Task

ARMS = {"equal": "global", "threshold": "local", "damage": "mixed"}


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task = Task.named("fashion-mnist")
    for name, path in NETWORKS.items():
        model = pl.load(ROOT / path)
        with tempfile.TemporaryDirectory() as place:
            before = evaluate_artifact(pl.export(model, Path(place) / "float.onnx"), task)
            yield finding(f"{name}, float", "accuracy", before.measurement)
            equal: Scores | None = None
            for arm, preset in ARMS.items():
                form, began = f"{name}, {arm}", time.monotonic()
                small = pl.quantize(model, task, mixed=preset, budget="4bits", ends=2, samples=512)
                seconds = time.monotonic() - began
                scores = evaluate_artifact(pl.export(small, Path(place) / f"{arm}.onnx"), task)
                yield finding(form, "accuracy", scores.measurement, right=packed(scores.rows[:, 0] == 1))
                yield finding(form, "drop", scores.drop_from(before))
                yield finding(form, "seconds", Measurement.exact(seconds, "s"))
                yield finding(form, "bits a weight", Measurement.exact(bits_a_weight(small), ""))
                if equal is None:
                    equal = scores
                else:
                    yield finding(form, "gain over equal", equal.drop_from(scores))

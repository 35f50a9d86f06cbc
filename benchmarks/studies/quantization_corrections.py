"""What mends a float network for few bits, and what mends the quantized one: cross-layer equalisation, bias correction.

256 calibration images of Fashion-MNIST, no labels, every weight to the nearest; judged on the 10,000 test images in
PyTorch, paired with the float network and with nearest rounding alone. W4A8 is weights of 4 bits, activations of 8; the
first and the last layer have 8 bits. MobileNetV2 has a ReLU6 between all layers that could be equalized, so that
nothing is, and it has no such rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

import packlight as pl
from benchmarks import ROOT
from benchmarks.ledger import Finding, finding, packed
from packlight.measure import Measurement
from packlight.measure.quality import Scores, evaluate
from packlight.passes.quantize import Bits, Quantization, equalize, quantize
from packlight.targets import get
from packlight.task import Task

NETWORKS = {
    "resnet20": "packlight/data/resnet20_fashion_mnist.plm",
    "mobilenet_v2_small": "benchmarks/networks/mobilenet_v2_small.plm",
}
BITS = {"W4A8": Bits(weights=4), "W3A8": Bits(weights=3)}


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task, numerics = Task.named("fashion-mnist"), get("onnxruntime").numerics
    for name, path in NETWORKS.items():
        model = pl.load(ROOT / path)
        before = evaluate(model, task)
        yield finding(f"{name}, float", "accuracy", before.measurement)
        pairs = sum(step.options["pairs"] for step in equalize(model).lineage if step.name == "equalize")
        yield finding(f"{name}, float", "pairs equalized", Measurement.exact(pairs, ""))
        for bits, chosen in BITS.items():
            first: Scores | None = None
            for arm, options in _arms(chosen, bool(pairs)).items():
                form, began = f"{name}, {bits}, {arm}", time.monotonic()
                small = quantize(model, task, numerics, options)
                seconds = time.monotonic() - began
                scores = evaluate(small, task)
                yield finding(form, "accuracy", scores.measurement, right=packed(scores.rows[:, 0] == 1))
                yield finding(form, "drop", scores.drop_from(before))
                yield finding(form, "seconds", Measurement.exact(seconds, "s"))
                if first is None:
                    first = scores
                else:
                    yield finding(form, "gain over nearest", first.drop_from(scores))


def _arms(bits: Bits, even: bool) -> dict[str, Quantization]:
    """even: whether there is something to equalize."""
    found = {"nearest": Quantization(bits=bits)}
    if even:
        found["equalized"] = Quantization(bits=bits, equalize=True)
    found["bias-corrected"] = Quantization(bits=bits, correct_bias=True)
    if even:
        found["both"] = Quantization(bits=bits, equalize=True, correct_bias=True)
    return found

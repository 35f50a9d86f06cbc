"""Few bits after training: rounding to the nearest, GPTQ, AdaRound, block reconstruction, and bits chosen by layer.

512 calibration images of Fashion-MNIST, no labels; judged on the 10,000 test images in PyTorch, paired with the float
network and with the row of nearest rounding. W4A8 is weights of 4 bits, activations of 8. The first and the last layer
have 8 bits, but for `mixed` and `equal`, where no layer is kept apart.
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
from packlight.model.operators import packet
from packlight.passes.quantize import Bits, Quantization, Rounding, quantize
from packlight.targets import get
from packlight.task import Task

NETWORKS = {
    "resnet20": "packlight/data/resnet20_fashion_mnist.plm",
    "mobilenet_v2_small": "benchmarks/networks/mobilenet_v2_small.plm",
}
STEPS = 200  # of learned rounding, a layer or a block
ADAROUND = Rounding(layers=True, drop=1.0, scales=False, steps=STEPS)
BLOCK = Rounding(steps=STEPS)
HOW = {
    "W8A8": {"nearest": Quantization(samples=512)},
    "W4A8": {
        "nearest": Quantization(bits=Bits(weights=4), samples=512),
    },
    "W3A8": {
        "nearest": Quantization(bits=Bits(weights=3), samples=512),
        "GPTQ": Quantization(bits=Bits(weights=3), samples=512, rounding="gptq"),
        "AdaRound": Quantization(bits=Bits(weights=3), samples=512, rounding=ADAROUND),
    },
    "W4A4": {
        "nearest": Quantization(bits=Bits(weights=4, activations=4), samples=512),
        "AdaRound": Quantization(bits=Bits(weights=4, activations=4), samples=512, rounding=ADAROUND),
        "block": Quantization(bits=Bits(weights=4, activations=4), samples=512, rounding=BLOCK),
    },
    "W2A4": {
        "nearest": Quantization(bits=Bits(weights=2, activations=4), samples=512),
        "AdaRound": Quantization(bits=Bits(weights=2, activations=4), samples=512, rounding=ADAROUND),
        "block": Quantization(bits=Bits(weights=2, activations=4), samples=512, rounding=BLOCK),
    },
    "4 bits a weight, A8": {
        "equal": Quantization(bits=Bits(weights=4, ends=4), samples=512),
        "mixed": Quantization(bits=Bits(ends=2, mixed=4.0), samples=512),
    },
}  # fmt: skip


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task, numerics = Task.named("fashion-mnist"), get("onnxruntime").numerics
    for name, path in NETWORKS.items():
        model = pl.load(ROOT / path)
        before = evaluate(model, task)
        yield finding(f"{name}, float", "accuracy", before.measurement)
        for bits, arms in HOW.items():
            first: Scores | None = None
            for arm, options in arms.items():
                form, began = f"{name}, {bits}, {arm}", time.monotonic()
                small = quantize(model, task, numerics, options)
                seconds = time.monotonic() - began
                scores = evaluate(small, task)
                yield finding(form, "accuracy", scores.measurement, right=packed(scores.rows[:, 0] == 1))
                yield finding(form, "drop", scores.drop_from(before))
                yield finding(form, "seconds", Measurement.exact(seconds, "s"))
                yield finding(form, "bits a weight", Measurement.exact(bits_a_weight(small), ""))
                if first is None:
                    first = scores
                else:
                    yield finding(form, f"gain over {next(iter(arms))}", first.drop_from(scores))


def bits_a_weight(model: pl.Model) -> float:
    """The mean over the quantized weights."""
    bits, count = 0.0, 0
    for node in model.nodes:
        if packet(node) == "quantize_per_channel":
            low, high = node.args[4:6]
            elements = model.tensor(node.args[0]).numel()  # type: ignore[arg-type]
            bits += elements * (high - low).bit_length()  # type: ignore[operator]
            count += elements
    return bits / count

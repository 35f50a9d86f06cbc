"""Weights that share values, without training: k-means tables by bits, scope and start; powers of two; three and two
values. Beside them the simpler rival: uniform steps, a scale an output channel, each weight to the nearest.

ResNet-20 and LeNet-300-100 on Fashion-MNIST, every layer with the same bits, activations in float. Judged on the 10,000
test images in PyTorch, paired with the float network and with the uniform steps of as many bits.
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
from packlight.passes.batches import batches_of
from packlight.passes.codebooks import Codebooks, input_moments, share_weights
from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.targets import get
from packlight.task import Task

NETWORKS = {
    "resnet20": "packlight/data/resnet20_fashion_mnist.plm",
    "lenet300": "benchmarks/networks/lenet300.plm",
}
SAMPLES = 128  # calibration images, for the second moments of inputs
WEIGHED = "k-means, layer, weighed by inputs"


def uniform(bits: int) -> Quantization:
    return Quantization(bits=Bits(weights=bits, activations=None, ends=bits), samples=32)


ARMS: dict[str, dict[str, Codebooks | Quantization]] = {
    "4 bits": {
        "uniform": uniform(4),
        "k-means, layer": Codebooks(bits=4),
        "powers": Codebooks(bits=4, kind="powers"),
    },
    "3 bits": {
        "uniform": uniform(3),
        "k-means, layer": Codebooks(bits=3),
        "k-means, layer, density": Codebooks(bits=3, init="density"),
        "k-means, layer, random": Codebooks(bits=3, init="random"),
        WEIGHED: Codebooks(bits=3),
        "k-means, global": Codebooks(bits=3, scope="global"),
        "k-means, 8 channels": Codebooks(bits=3, scope="channel", group=8),
        "powers": Codebooks(bits=3, kind="powers"),
    },
    "2 bits": {
        "uniform": uniform(2),
        "k-means, layer": Codebooks(bits=2),
        "k-means, 8 channels": Codebooks(bits=2, scope="channel", group=8),
        "ternary": Codebooks(kind="ternary"),
    },
    "1 bit": {"binary": Codebooks(kind="binary")},
}  # fmt: skip


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task, numerics = Task.named("fashion-mnist"), get("onnxruntime").numerics
    for name, path in NETWORKS.items():
        model = pl.load(ROOT / path)
        before = evaluate(model, task)
        yield finding(f"{name}, float", "accuracy", before.measurement)
        for bits, arms in ARMS.items():
            first: Scores | None = None
            for arm, options in arms.items():
                form, began = f"{name}, {bits}, {arm}", time.monotonic()
                if isinstance(options, Quantization):
                    small = quantize(model, task, numerics, options)
                else:
                    small = share_weights(model, options, _moments(model, task) if arm == WEIGHED else None)
                seconds = time.monotonic() - began
                scores = evaluate(small, task)
                yield finding(form, "accuracy", scores.measurement, right=packed(scores.rows[:, 0] == 1))
                yield finding(form, "drop", scores.drop_from(before))
                yield finding(form, "seconds", Measurement.exact(seconds, "s"))
                yield finding(form, "weights", Measurement.exact(pl.statistics(small).weight_bytes, "bytes"))
                if first is None:
                    first = scores
                else:
                    yield finding(form, f"gain over {next(iter(arms))}", first.drop_from(scores))


def _moments(model: pl.Model, task: Task) -> dict[str, torch.Tensor]:
    return dict(input_moments(model, [x for x, _ in batches_of(model, task.data("calibration"), SAMPLES, 32)]))

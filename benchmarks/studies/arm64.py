"""Whether files compute on an ARM processor what they compute here: ONNX Runtime and ncnn for arm64 under emulation.

The first 64 validation images; one at a time. error: the largest difference of scores, of their largest magnitude, from
what the same file gives on this machine (ONNX Runtime 1.23.2 there, what is installed here).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks import ROOT, arm64
from benchmarks.ledger import Finding, finding
from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.parity import in_pieces
from packlight.targets import Artifact, Runner
from packlight.task import Task

NETWORKS = {
    "resnet20": "packlight/data/resnet20_fashion_mnist.plm",
    "lenet5": "benchmarks/networks/lenet5.plm",
    "mobilenet_v2_small": "benchmarks/networks/mobilenet_v2_small.plm",
}
SAMPLES = 64
SCRIPT = ROOT / "benchmarks" / "runners" / "on_arm64.py"


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task = Task.named("fashion-mnist")
    images = next(task.data("validation").batches(SAMPLES)).inputs
    np.savez(folder / "images.npz", *images)
    for name, path in NETWORKS.items():
        model = pl.load(ROOT / path)
        small = pl.quantize(model, task)
        yield from _compared(f"{name}, onnxruntime float32", pl.export(model, folder / f"{name}.onnx"), images)
        yield from _compared(f"{name}, onnxruntime int8", pl.export(small, folder / f"{name}-int8.onnx"), images)
        ncnn = pl.export(model, folder / f"{name}.param", target="ncnn")
        yield from _compared(f"{name}, ncnn float32", ncnn, images)
        yield from _compared(f"{name}, ncnn float32, its default of 16-bit arithmetic", ncnn, images, "half")


def _compared(form: str, artifact: Artifact, images: tuple[np.ndarray, ...], *how: str) -> Iterator[Finding]:
    with Runner(artifact, 1) as runner:
        (wanted, *_) = in_pieces(runner, images)
    output = artifact.path.with_suffix(".arm64.npy")
    try:
        arm64.run(SCRIPT, artifact.path, artifact.path.parent / "images.npz", output, *how)
    except PacklightError as error:
        yield finding(form, "refused", reason=str(error))
        return
    found = np.load(output).reshape(wanted.shape)
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    same = 100 * float((found.argmax(1) == wanted.argmax(1)).mean())
    yield finding(form, "error", Measurement.exact(error, "", len(wanted)))
    yield finding(form, "same decisions", Measurement.exact(same, "%", len(wanted)))

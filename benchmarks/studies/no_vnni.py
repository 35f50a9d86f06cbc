"""int8 on a processor without VNNI, where sums of two products saturate in int16: do labels stay?

ResNet-20 on 300 test images of Fashion-MNIST, with weights of 8 bits and of 7. "emulated" saturates in PyTorch, sum by
sum. "qemu" runs ONNX Runtime under `qemu-x86_64 -cpu max`, which knows AVX2 and no VNNI (found on the PATH or at
$PACKLIGHT_QEMU; left out where it is not; minutes).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks import ROOT
from benchmarks.ledger import Finding, finding
from packlight.measure import Measurement
from packlight.measure.intervals import share
from packlight.passes.quantize.overflow import Saturating, sums
from packlight.task import Task

IMAGES, SEEN = 300, 32
LIMIT_S = 1500
CODE = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.load(sys.argv[2])
name = session.get_inputs()[0].name
np.save(sys.argv[3], np.concatenate([session.run(None, {name: part})[0] for part in np.array_split(x, 10)]))
"""


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task = Task.named("fashion-mnist")
    model = pl.load(ROOT / "packlight/data/resnet20_fashion_mnist.plm")
    batch = next(iter(task.data("test").take(IMAGES).batches(IMAGES)))
    x, labels = batch.inputs[0], np.asarray(batch.targets)
    np.save(folder / "x.npy", x)
    qemu = os.environ.get("PACKLIGHT_QEMU") or shutil.which("qemu-x86_64")
    for name, reduced in (("weights of 8 bits", False), ("weights of 7 bits", True)):
        small = pl.quantize(model, task, reduce_range=reduced)
        kernels = sums(small, [(torch.from_numpy(x[:SEEN]),)])
        yield finding(name, "kernels that can saturate", Measurement.exact(sum(not k.safe for k in kernels), ""))
        yield finding(name, "kernels that do", Measurement.exact(sum(k.saturated > 0 for k in kernels), ""))
        yield finding(
            name, "pair sums that do, worst kernel", Measurement.exact(100 * max(k.saturated for k in kernels), "%")
        )
        file = pl.export(small, folder / f"{'reduced' if reduced else 'plain'}.onnx").path
        wanted = _run(file, folder, [sys.executable])
        with torch.no_grad():
            parts = torch.from_numpy(x).split(SEEN)
            emulated = torch.cat([Saturating(small).run(part)[0] for part in parts]).numpy()
        answers = {"with VNNI": wanted, "emulated": emulated}
        if qemu:
            answers["qemu"] = _run(file, folder, [qemu, "-cpu", "max", sys.executable])
        for where, scores in answers.items():
            yield from _compared(f"{name}, {where}", scores, wanted, labels)


def _run(file: Path, folder: Path, command: list[str]) -> np.ndarray:
    out = folder / f"{file.stem}-{len(command)}.npy"
    if not out.exists():
        subprocess.run([*command, "-c", CODE, str(file), str(folder / "x.npy"), str(out)], check=True, timeout=LIMIT_S)
    return np.asarray(np.load(out))


def _compared(form: str, scores: np.ndarray, wanted: np.ndarray, labels: np.ndarray) -> Iterator[Finding]:
    found = scores.argmax(1)
    error = float(np.linalg.norm(scores - wanted) / np.linalg.norm(wanted))
    right = (found == labels).astype(float)[:, None]
    yield finding(form, "accuracy", share(right))
    changed = int((found != wanted.argmax(1)).sum())
    yield finding(
        form,
        "labels that change",
        Measurement.exact(changed, "", len(labels)),
    )
    yield finding(form, "error of the outputs", Measurement.exact(error, "relative"))

"""packlight's forms on ONNX Runtime, and the fair float file that every form of every library is compared with.

Of `.plt` files the bytes are those that are stored and sent; what runs is the file that `packlight unpack` writes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.peers.serving import SMALL, THREADS, Array, Form, Inputs, Job, Run, serve

SAMPLES = 256
WITH_THIN_STEM = ("resnet*", "mobilenet*", "lenet5", "unet")


def floating(job: Job) -> dict[str, Any]:
    shutil.copy(job.folder / "float.onnx", job.made / "model.onnx")
    return {}


def halved(job: Job) -> dict[str, Any]:
    import packlight as pl

    _export(pl.load(job.folder / "network.plm"), job, "float16")
    return {"form": "float16"}


def int8(job: Job, float_stem: bool) -> dict[str, Any]:
    import packlight as pl
    from packlight.search.candidates import thin_stems
    from packlight.task.data import ArrayData

    model = pl.load(job.folder / "network.plm")
    stems = thin_stems(model) if float_stem else []
    calibration = pl.Task(calibration=ArrayData(job.data("calibration")[0]))
    small = pl.quantize(model, calibration, samples=SAMPLES, exclude=stems)
    _export(small, job, "float32")
    small.save(job.folder / f"{job.made.name}.plm")  # for the harness: does the file compute what the Model does?
    return {"ranges": "mse", "samples": SAMPLES, "exclude": stems, "model": f"{job.made.name}.plm"}


def packed(job: Job, most: float | None) -> dict[str, Any]:
    """Within points of validation accuracy; None: every bit kept."""
    import torch

    import packlight as pl
    from packlight.task.data import ArrayData

    torch.set_num_threads(THREADS)
    model, out = pl.load(job.folder / "network.plm"), job.made / "network.plt"
    if most is None:
        pl.pack(model, out)
        return {}
    task = pl.Task(calibration=ArrayData(job.data("calibration")[0]), validation=ArrayData(*job.data("validation")))
    found = pl.pack(model, out, task, budget=f"drop<={most}points")
    return {"price": found.price, "drop": found.drop.value if found.drop else None}


def unpacked(job: Job) -> Run:
    """Unpacked in a process of its own, so that this one's memory is the runtime's."""
    file = job.made.with_name(f"{job.made.name}.onnx")
    command = [sys.executable, "-m", "packlight", "unpack", job.made / "network.plt", "--out", file]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return _session(file)


def session(job: Job) -> Run:
    return _session(job.made / "model.onnx")


def _session(file: Path) -> Run:
    """As packlight itself opens a file."""
    from packlight.targets.onnxruntime import OnnxRuntime

    opened = OnnxRuntime().open(file, THREADS)

    def run(inputs: Inputs) -> Array:
        return opened.run(list(inputs))[0]

    return run


def _export(model: Any, job: Job, form: str) -> None:
    """The .onnx alone: the manifest that packlight writes beside it is not deployed."""
    import packlight as pl

    with TemporaryDirectory() as folder:
        shutil.move(pl.export(model, Path(folder) / "model.onnx", form=form).path, job.made / "model.onnx")


FORMS = [
    Form("float32", floating, session),
    Form("int8", partial(int8, float_stem=False), session),
    Form("int8-float-stem", partial(int8, float_stem=True), session, WITH_THIN_STEM),
    Form("float16", halved, session, quick=False),
    Form("plt", partial(packed, most=None), unpacked, SMALL, quick=False),
    Form("plt-0.1", partial(packed, most=0.1), unpacked, SMALL, quick=False),
    Form("plt-0.5", partial(packed, most=0.5), unpacked, SMALL, quick=False),
]

if __name__ == "__main__":
    serve(FORMS, {"packlight": "packlight", "torch": "torch", "onnxruntime": "onnxruntime"})

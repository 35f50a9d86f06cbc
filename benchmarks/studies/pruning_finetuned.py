"""The demo's ResNet-20 with half of its MACs or a quarter of its parameters, after distilled fine-tuning.

The cut is compensated; then five passes over four fixed augmented copies of full Fashion-MNIST, after the network as it
was. The control is the whole network with the same training. Judged on the 10,000 test images, paired; latency of the
exported files on ONNX Runtime against the whole one's, one thread, alternated.
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
from packlight.measure.latency import compare
from packlight.measure.quality import Scores, evaluate, workload_inputs
from packlight.model import Model, statistics
from packlight.passes.renorm import rebase
from packlight.search.pruning.prune import calibration_inputs
from packlight.task import Task
from packlight.train import Distill, Fit, fit

PASSES, COPIES = 5, 4
HOW = Fit(epochs=PASSES / COPIES, learning_rate=0.02)
ARMS = {
    "half of the MACs": pl.Pruning(0.5, by="macs", multiple=4),
    "a quarter of the parameters": pl.Pruning(0.25, by="params", multiple=4),
    "control (whole)": None,
}


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task = Task.named("fashion-mnist")
    model = pl.load(ROOT / "packlight" / "data" / "resnet20_fashion_mnist.plm")
    data = copied(task)
    before = evaluate(model, task)
    yield finding("as it was", "accuracy", before.measurement)
    made: dict[str, Model] = {}
    scores: dict[str, Scores] = {}
    for name, how in ARMS.items():
        cut = pl.prune(model, task, options=how) if how else rebase(model, calibration_inputs(model, task, 512))
        if how:
            yield finding(f"{name}, cut alone", "drop", evaluate(cut, task).drop_from(before))
        path, began = folder / f"{name}.plm", time.monotonic()
        if not path.exists():
            fit(cut, data, HOW, hooks=[Distill(model, cache=SCRATCH / "studies" / "answers")]).save(path)
        seconds = time.monotonic() - began
        made[name] = pl.load(path)
        scores[name] = evaluate(made[name], task)
        now, whole = statistics(made[name]), statistics(model)
        yield finding(name, "accuracy", scores[name].measurement, right=packed(scores[name].rows[:, 0] == 1))
        yield finding(name, "drop", scores[name].drop_from(before))
        yield finding(name, "parameters left", Measurement.exact(100 * now.params / whole.params, "%"))
        yield finding(name, "MACs left", Measurement.exact(100 * now.macs / whole.macs, "%"))
        yield finding(name, "training_s", Measurement.exact(seconds, "s"))
    for name in list(ARMS)[:-1]:
        yield finding(name, "drop from the control", scores[name].drop_from(scores["control (whole)"]))
    files = [pl.export(net, folder / f"{i}.onnx") for i, net in enumerate((model, *made.values()))]
    for batch in (1, 16):
        timed = compare(files, workload_inputs(task, "test", batch), threads=1)
        for name, latency in list(zip(ARMS, timed[1:], strict=True))[:-1]:
            yield finding(name, f"latency at batch {batch}, of the whole", latency.ratio)

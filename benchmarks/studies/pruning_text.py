"""Heads and feed-forward layers of the sentence encoder, on BBC News: accuracy on the 850 test articles, and latency.

Every layer keeps the same share of its heads and of its feed-forward width; the residual stream keeps its 384. The cut
is compensated, then trained for two passes after the network as it was. The control is the whole network with the same
training. Latency of the exported files on ONNX Runtime against the whole one's, one thread, alternated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

import packlight as pl
from benchmarks import ROOT
from benchmarks.ledger import Finding, finding
from packlight.measure import Measurement
from packlight.measure.latency import compare
from packlight.measure.quality import Scores, evaluate, workload_inputs
from packlight.model import Model, statistics
from packlight.task import Task
from packlight.train import Distill, Fit, fit

HOW = Fit(epochs=2, batch=16, learning_rate=5e-5, optimizer="adamw", weight_decay=0.01)
KEEP = (0.75, 0.5)
EXCLUDE = ("encoder.words", "encoder.norm")  # what the residual stream is made of


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task, model = (
        Task.named("bbc-news"),
        pl.load(ROOT / ".data" / "networks" / "sentence_bbc.plm"),
    )  # of scripts/train_reference.py
    before = evaluate(model, task)
    yield finding("as it was", "accuracy", before.measurement)
    made: dict[str, Model] = {}
    scores: dict[str, Scores] = {}
    for name, keep in [*((f"{k:.0%} of heads and feed-forward", k) for k in KEEP), ("control (whole)", None)]:
        small = model
        if keep is not None:
            small = pl.prune(model, task, options=pl.Pruning(keep, by="channels", exclude=EXCLUDE), samples=256)
            yield finding(f"{name}, cut alone", "drop", evaluate(small, task).drop_from(before))
            made[name] = small
        began = time.monotonic()
        trained = fit(small, task, HOW, hooks=[Distill(model)])
        yield finding(name, "training_s", Measurement.exact(time.monotonic() - began, "s"))
        scores[name] = evaluate(trained, task)
        yield finding(name, "accuracy", scores[name].measurement)
        yield finding(name, "drop", scores[name].drop_from(before))
        now, whole = statistics(trained), statistics(model)
        yield finding(name, "parameters left", Measurement.exact(100 * now.params / whole.params, "%"))
        yield finding(name, "MACs left", Measurement.exact(100 * now.macs / whole.macs, "%"))
    for name in made:
        yield finding(name, "drop from the control", scores[name].drop_from(scores["control (whole)"]))
    files = [pl.export(net, folder / f"{i}.onnx") for i, net in enumerate((model, *made.values()))]
    for batch in (1, 8):
        timed = compare(files, workload_inputs(task, "test", batch), threads=1)
        for name, latency in zip(made, timed[1:], strict=True):
            yield finding(name, f"latency at batch {batch}, of the whole", latency.ratio)

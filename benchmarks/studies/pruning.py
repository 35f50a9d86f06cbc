"""Cutting channels without training: weights' size, batch norms estimated anew, and least squares.

Every layer of a trained network keeps the same share of its channels, those with the largest weights (L2), 0.7 and 0.5.
512 calibration images; judged on the 10,000 test images of Fashion-MNIST, each step against the one before it, paired.
`random` draws the channels instead, with everything else as in the last step.
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
from packlight.passes.prune import Pruning, prune
from packlight.passes.renorm import rebase, renorm
from packlight.task import Task

NETWORKS = {
    "lenet300": "benchmarks/networks/lenet300.plm", "lenet5": "benchmarks/networks/lenet5.plm",
    "resnet20": "packlight/data/resnet20_fashion_mnist.plm",
    "mobilenet_v2_small": "benchmarks/networks/mobilenet_v2_small.plm",
}  # fmt: skip
KEEP = (0.7, 0.5)


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task = Task.named("fashion-mnist")
    data = [
        tuple(torch.from_numpy(x) for x in batch.inputs) for batch in task.data("calibration").take(512).batches(64)
    ]
    for name, path in NETWORKS.items():
        model = pl.load(ROOT / path)
        before = evaluate(model, task)
        yield finding(f"{name}, whole", "accuracy", before.measurement)
        for keep in KEEP:
            how = Pruning(keep, by="channels")
            last: Scores | None = None
            for arm in ("l2", "+ batch norms", "+ least squares", "random"):
                began = time.monotonic()
                made = _cut(arm, model, how, data)
                seconds = time.monotonic() - began
                scores = evaluate(made, task)
                hits = packed(scores.rows[:, 0] == 1)
                form = f"{name}, {keep:.0%} of channels, {arm}"
                yield finding(form, "accuracy", scores.measurement, right=hits)
                yield finding(form, "drop", scores.drop_from(before))
                yield finding(form, "seconds", Measurement.exact(seconds, "s"))
                if last is not None:
                    yield finding(form, "gain over the row above", last.drop_from(scores))
                last = scores
            left = sum(p.numel() for p in made.parameters()) / sum(p.numel() for p in model.parameters())
            yield finding(f"{name}, {keep:.0%} of channels", "parameters left", Measurement.exact(100 * left, "%"))


def _cut(arm: str, model: pl.Model, how: Pruning, data: list[tuple[torch.Tensor, ...]]) -> pl.Model:
    if arm == "l2":
        return prune(model, how)
    if arm == "+ batch norms":
        return renorm(prune(rebase(model, data), how), data)
    if arm == "random":
        return prune(model, Pruning(how.keep, by=how.by, score="random"), calibration=data)
    return prune(model, how, calibration=data)

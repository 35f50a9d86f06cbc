"""The pretrained sentence encoder on BBC News: modes of `transfer`, accuracy on the 850 test articles, and time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks.ledger import Finding, finding
from packlight import networks
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.task import Task
from packlight.task.readers import sentence_encoder_files
from packlight.train import Fit, Transfer

MODES = ("extract", "adapt", "full")
SEED = 0
TUNED = Fit(epochs=2, batch=16, learning_rate=5e-5, optimizer="adamw", weight_decay=0.01)


def study(folder: Path) -> Iterator[Finding]:
    task = Task.named("bbc-news")
    torch.manual_seed(SEED)
    module = networks.sentence_classifier(2, sentence_encoder_files()["model.safetensors"])
    example = tuple(torch.from_numpy(x) for x in next(task.data("calibration").batches(2)).inputs)
    encoder = pl.load(module, example, name="sentence_encoder")
    scores = {}
    for mode in MODES:
        began = time.monotonic()
        made = pl.transfer(encoder, task, modes=(mode,), options=Transfer(fit=TUNED)).model
        yield finding(mode, "training_s", Measurement.exact(time.monotonic() - began, "s"))
        scores[mode] = evaluate(made, task)
        yield finding(mode, "accuracy", scores[mode].measurement)
    for mode in MODES[1:]:
        gain = scores["extract"].drop_from(scores[mode])
        yield finding(f"{mode} − extract", "gain", gain)
    majority = np.bincount(task.data("test").targets).max() / len(task.data("test"))
    yield finding("the largest class", "accuracy", Measurement.exact(100 * float(majority), "%"))

"""How long the analysis for pruning takes (labels, families of units) as networks get deeper, after export, one thread.

ResNets of three stages for 28-pixel images and encoders of transformers, both with random weights, and the two networks
that have a limit: ResNet-50 at 224 px (2 s) and a transformer of 12 blocks (3 s). Each is analysed RUNS times, the
networks one after the other in every round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import packlight as pl
from benchmarks.ledger import Finding, finding
from packlight import networks
from packlight.measure import Measurement, intervals
from packlight.networks.resnet import SmallResNet
from packlight.networks.text import SentenceEncoder, TransformerClassifier

RUNS = 5
BLOCKS = {"ResNet": (3, 9, 18, 27, 54), "transformer": (2, 4, 8, 12, 24)}  # blocks in all
LIMITS_S = {"ResNet-50, 224 px": 2.0, "transformer, 12 blocks of width 384": 3.0}


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    models = {name: pl.load(module.eval(), inputs) for name, (module, inputs) in _networks().items()}
    first = {name: _seconds(model) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(RUNS):
        for name, model in models.items():
            seconds[name].append(_seconds(model))
    for name, taken in seconds.items():
        nodes = len(list(models[name].nodes))
        yield finding(name, "analysis_s", intervals.median(taken, "s"), nodes=nodes, first_s=first[name])
    for name, limit in LIMITS_S.items():
        yield finding(name, "limit_s", Measurement.exact(limit, "s"))
    for kind, depths in BLOCKS.items():
        a, b = (float(np.median(seconds[_named(kind, d)])) for d in depths[-2:])
        growth = np.log(b / a) / np.log(depths[-1] / depths[-2])
        yield finding(kind, "exponent of growth", Measurement.exact(float(growth), ""))


def _seconds(model: pl.Model) -> float:
    began = time.monotonic()
    pl.prunable(model)
    return time.monotonic() - began


def _named(kind: str, blocks: int) -> str:
    return f"{kind}, {blocks} blocks"


def _networks() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    small, large = torch.zeros(2, 1, 28, 28), torch.zeros(2, 3, 224, 224)
    words = (torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64))
    make: dict[str, Callable[[int], nn.Module]] = {
        "ResNet": lambda n: SmallResNet(1, 10, 1.0, n // 3),
        "transformer": lambda n: TransformerClassifier(4, 64, n, 4, 32),
    }
    found = {
        _named(kind, n): (make[kind](n), (small,) if kind == "ResNet" else words)
        for kind, depths in BLOCKS.items()
        for n in depths
    }
    whole = iter(LIMITS_S)
    return found | {
        next(whole): (networks.resnet50(), (large,)),
        next(whole): (SentenceEncoder(layers=12), words),
    }

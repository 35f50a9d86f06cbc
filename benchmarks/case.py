"""The named cases: a network with a task, and how it is measured in quick and in full mode."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

import packlight as pl
from benchmarks import ROOT
from packlight.errors import PacklightError
from packlight.task import Task


class Absent(PacklightError):
    """A network or data that a case needs is not on this machine."""


@dataclass(frozen=True)
class Case:
    """A network on a task. Everything but `quick` and the batches also goes to the forms, in job.json.

    factory: "module:function" of the torch module, called with `options`. saved: the trained `.plm` file; None: random
    weights, of which only latency and bytes mean anything. shape: of one sample. task: of a trained network.
    quick: whether quick mode has it, on the demo's part of Fashion-MNIST. batches, quick_batches: whose latency is
    taken.
    """

    name: str
    factory: str
    shape: tuple[int, ...]
    saved: str | None = None
    task: str = "fashion-mnist"
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = True
    batches: tuple[int, ...] = (1, 16)
    quick_batches: tuple[int, ...] = (1,)

    @property
    def network(self) -> str:
        """What forms go by: the name without the image size."""
        return self.name.partition("-")[0]

    @property
    def trained(self) -> bool:
        return self.saved is not None

    def task_name(self, quick: bool) -> str:
        if not self.trained:
            return "noise"
        return f"{self.task}-demo" if quick and self.task == "fashion-mnist" else self.task

    def load(self, quick: bool) -> tuple[pl.Model, Task]:
        """The network and its task; Absent says what is missing."""
        if self.saved is None:
            return _untrained(self)
        path = ROOT / self.saved
        if not path.is_file():
            raise Absent(f"{self.saved} is not there; scripts/train_reference.py {self.network} trains it")
        try:
            task = Task.named(self.task_name(quick))
        except PacklightError as error:
            raise Absent(str(error)) from error
        return pl.load(path), task


def _untrained(case: Case) -> tuple[pl.Model, Task]:
    """Random weights whose batch norms have seen noise, and a task of noise."""
    import torch

    module_name, _, function = case.factory.partition(":")
    torch.manual_seed(0)
    module = getattr(importlib.import_module(module_name), function)(**case.options)
    images = torch.randn(32, *case.shape)
    module.train()
    with torch.no_grad():
        for i in range(0, len(images), 8):
            module(images[i : i + 8])
    data = images.numpy(), np.zeros(len(images), np.int64)
    calibration = images[:16].numpy(), data[1][:16]
    model = pl.load(module, images[:2], name=case.name.replace("-", "_"))
    return model, Task("noise", calibration=calibration, validation=calibration, test=data)


_NETWORKS = "packlight.networks"
CASES = (
    Case("resnet20", f"{_NETWORKS}:resnet20", (1, 28, 28), "packlight/data/resnet20_fashion_mnist.plm",
         quick_batches=(1, 16)),
    Case("lenet300", f"{_NETWORKS}:lenet300", (1, 28, 28), "benchmarks/networks/lenet300.plm",
         quick=False),
    Case("lenet5", f"{_NETWORKS}:lenet5", (1, 28, 28), "benchmarks/networks/lenet5.plm"),
    Case("mobilenet_v2_small", f"{_NETWORKS}:mobilenet_v2_small", (1, 28, 28),
         "benchmarks/networks/mobilenet_v2_small.plm"),
    Case("unet", f"{_NETWORKS}:unet", (1, 56, 56), "benchmarks/networks/unet.plm", "fashion-scenes", quick=False),
    Case("ds_cnn", f"{_NETWORKS}:ds_cnn", (10_240,), ".data/networks/ds_cnn.plm", "mandarin-tones", quick=False),
    Case("conformer", f"{_NETWORKS}:conformer", (10_240,), ".data/networks/conformer.plm", "mandarin-tones",
         quick=False),
    Case("lstm_bbc", f"{_NETWORKS}:lstm_classifier", (128,), ".data/networks/lstm_bbc.plm", "bbc-news",
         {"classes": 5}, quick=False),
    Case("sentence_bbc", f"{_NETWORKS}:sentence_classifier", (128,), ".data/networks/sentence_bbc.plm", "bbc-news",
         {"classes": 5}, quick=False),
    Case("mobilenet_v2-224", f"{_NETWORKS}:mobilenet_v2", (3, 224, 224), quick=False),
    Case("resnet50-224", f"{_NETWORKS}:resnet50", (3, 224, 224), quick=False),
)  # fmt: skip


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def chosen(pattern: str, quick: bool) -> list[Case]:
    """The cases of a mode whose name fits a shell pattern."""
    found = [case for case in CASES if fnmatchcase(case.name, pattern) and (case.quick or not quick)]
    if not found:
        names = ", ".join(case.name for case in CASES if case.quick or not quick)
        raise PacklightError(f"no {'quick' if quick else 'full'} case fits {pattern!r}; there are {names}")
    return found

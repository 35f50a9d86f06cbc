"""What packlight's loop costs over a bare PyTorch loop, and what a second process gains.

Step time: the demo's ResNet-20 on Fashion-MNIST at batch 128, SGD with Nesterov momentum, one thread; both loops take
the same number of steps in turn, in one process. Data parallel: the same global batch on one process and, under
torchrun, on two, a thread each, in turn; also for LeNet-5, which has no batch norms to keep together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import packlight as pl
from benchmarks import ROOT
from benchmarks.ledger import Finding, finding
from packlight import networks
from packlight.measure import intervals
from packlight.task import Task
from packlight.train import Fit, Schedule, fit
from packlight.train.memory import kept_memory

BATCH, STEPS, ROUNDS, PAIRS = 128, 12, 5, 3
NETWORKS = {"resnet20": networks.resnet20, "lenet5": networks.lenet5}
_WARM = 2  # steps not timed at the start of every turn


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    task = Task.named("fashion-mnist")
    mine, bare = [], []
    for turn in range(ROUNDS):
        for which in (0, 1) if turn % 2 else (1, 0):
            (mine if which else bare).append((_fit if which else _bare)(task))
    yield finding("bare loop", "ms a step", intervals.median([1e3 * t for t in bare], "ms"))
    yield finding("packlight.train.fit", "ms a step", intervals.median([1e3 * t for t in mine], "ms"))
    shares = [100 * (m / b - 1) for m, b in zip(mine, bare, strict=True)]
    yield finding("packlight.train.fit", "overhead", intervals.median(shares, "%"))
    for name in NETWORKS:
        ratios = []
        for turn in range(PAIRS):
            pair = {n: _in_processes(n, name) for n in ((1, 2) if turn % 2 else (2, 1))}
            ratios.append(pair[1] / pair[2])
        yield finding(f"two processes, {name}", "times as fast as one", intervals.median(ratios, "×"))


def _fit(task: Task, name: str = "resnet20") -> float:
    """Median seconds a step."""
    torch.manual_seed(0)
    model = pl.load(NETWORKS[name](), torch.zeros(2, 1, 28, 28))
    ticks: list[float] = []
    how = Fit(batch=BATCH, learning_rate=0.1, schedule=Schedule(steps=STEPS + _WARM))
    fit(model, task, how, on_step=lambda p: ticks.append(time.perf_counter()))
    return float(np.median(np.diff(ticks)[_WARM - 1 :]))


@kept_memory()
def _bare(task: Task) -> float:
    """The same by hand, with PyTorch alone: the module itself, its optimizer, the same batches and augmentation."""
    torch.manual_seed(0)
    net = networks.resnet20().train()
    data = task.data("train")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    order = np.random.default_rng(0).permutation(len(data))
    generator = torch.Generator().manual_seed(0)
    ticks = []
    for step in range(STEPS + _WARM):
        batch = data.select(np.sort(order[step * BATCH : (step + 1) * BATCH]))
        x = task.augment(torch.from_numpy(np.ascontiguousarray(batch.inputs[0])), generator)
        loss = cross_entropy(net(x), torch.from_numpy(batch.targets))
        float(loss.detach())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ticks.append(time.perf_counter())
    return float(np.median(np.diff(ticks)[_WARM - 1 :]))


def _in_processes(count: int, name: str) -> float:
    """Seconds a step at the same global batch."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", "--master-port=29631",
               "-m", __name__, name]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=600, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _main() -> None:
    torch.set_num_threads(1)
    seconds = _fit(Task.named("fashion-mnist"), sys.argv[1])
    if int(os.environ["RANK"]) == 0:
        print(json.dumps(seconds))


if __name__ == "__main__":
    _main()

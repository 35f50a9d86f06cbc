"""How fast `.plt` files are written and opened, how near the coder comes to its own contexts' ideal, and what memory
opening takes: the sentence encoder of 22.7 million parameters, and ResNet-20.

One core. Rates are of float32 weights, 4 bytes each: decoding, from the file to numbers; opening, to a Model. Both are
timed in a process that has opened a small file before; memory is how much that process grew while it decoded, over the
bytes of the tensors that it then holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import packlight as pl
from benchmarks.case import named
from benchmarks.ledger import Finding, finding
from packlight.codec import account
from packlight.measure import Measurement
from packlight.measure.intervals import median
from packlight.model import Model

PARTS = "resnet20", "sentence_bbc"
PRICE, SAMPLES, TIMES = 1e-11, 64, 5
OPENED = """
import json, os, sys, time, torch
from pathlib import Path
from packlight.codec import read_packed
from packlight.codec.container import read
status = lambda key: next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024
torch.set_num_threads(1)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
read_packed(sys.argv[2])
before, times = status("VmRSS"), []
for i in range(int(sys.argv[3])):
    began = time.perf_counter()
    made = read(Path(sys.argv[1]), 1)
    decoded = time.perf_counter()
    grown = status("VmHWM") - before if i == 0 else grown
    del made
    again = time.perf_counter()
    opened = read_packed(sys.argv[1])
    times.append([decoded - began, time.perf_counter() - again])
    del opened
print(json.dumps([times, grown]))
"""


def study(name: str, folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model, task = named(name).load(quick=False)
    small, _ = named("lenet5").load(quick=False)
    whole = sum(p.numel() for p in model.parameters()) * 4
    rounded: Model | None = None
    for mode in ("small", "fast"):
        form, out, warm = f"{name}, {mode}", folder / f"{mode}.plt", folder / f"warm-{mode}.plt"
        pl.pack(small, warm, mode=mode)
        began = time.monotonic()
        if rounded is None:
            rounded = pl.pack(model, out, task, price=PRICE, samples=SAMPLES, mode=mode).model
            yield finding(form, "rounding and writing", _seconds(began))
        else:
            pl.pack(rounded, out, mode=mode)
            yield finding(form, "writing", _seconds(began))
        command = [sys.executable, "-c", OPENED, str(out), str(warm), str(TIMES)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        times, grown = json.loads(done.stdout)
        held = account(out)
        yield finding(form, "bytes", Measurement.exact(held.file_bytes, "bytes"))
        yield finding(form, "over the ideal", Measurement.exact(100 * held.overhead, "%"))
        for what, i in (("decoding", 0), ("opening", 1)):
            yield finding(form, what, median([whole / 1e6 / t[i] for t in times], "MB/s"))
        yield finding(form, "memory over the tensors", Measurement.exact(grown / held.memory_bytes, "×"))


def _seconds(began: float) -> Measurement:
    return Measurement.exact(time.monotonic() - began, "s")

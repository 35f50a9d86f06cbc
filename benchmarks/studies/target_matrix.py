"""Every trained reference network on every runtime that is installed here, in every form that the runtime has.

`pl.compare` makes, proves, scores (whole test split) and times each file; int8 files hold the same scales. A cell is a
row of findings, or one that says why there is no such file. Networks whose data are missing are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

import packlight as pl
from benchmarks.case import named
from benchmarks.ledger import Finding, finding
from packlight.measure import Measurement

KEPT = {
    "quality": "quality", "drop_points": "drop", "agreement": "agreement of file and Model", "file_bytes": "file",
    "latency_ms": "latency", "latency_ratio": "latency, of ONNX Runtime's float", "cold_start_ms": "cold start",
    "peak_memory_bytes": "memory", "parity_error": "error of the outputs",
}  # fmt: skip
PARTS = "resnet20", "mobilenet_v2_small", "ds_cnn", "conformer", "sentence_bbc", "lstm_bbc"


def study(name: str, folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    model, task = named(name).load(quick=False)
    found = pl.compare(model, task)
    for row in found.rows:
        cell = f"{name}, {row.target} {row.form}"
        if not row.ok:
            yield finding(cell, "refused", reason=row.refused)
        for key, what in KEPT.items():
            if key in row.measurements:
                yield finding(cell, what, row.measurements[key])
    alike = [m for (one, other), m in found.agreement.items() if one[1] == other[1] == "int8"]
    if alike:
        yield finding(name, "agreement of int8 files, least", min(alike, key=lambda m: m.value))
    scores = [r.measurements["quality"].value for r in found.rows if r.ok and r.form == "int8"]
    if scores:
        apart = Measurement.exact(max(scores) - min(scores), "points", len(scores))
        yield finding(name, "quality of int8 files, apart", apart)

"""Eight bits after training on every trained reference network: what the exported file loses, and whether it is faster.

Each form is quantized on 256 calibration samples, exported, and judged on the whole test split: the file against the
float file (drop, paired), against the Model that it was made of (agreement), and in time (one thread, batch 1,
alternated). A form that is slower than float is what `packlight compress` refuses; "int8-tuned" leaves in float what
ran slower in int8 on this machine, where that makes the whole faster. Last, how long it takes to calibrate and quantize
MobileNetV2, beside ONNX Runtime's quantizer and NNCF, whose times hold the writing of their files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks import ROOT, SCRATCH
from benchmarks.case import CASES, Absent, Case, named
from benchmarks.environments import make
from benchmarks.forms import Form, listed
from benchmarks.job import make_job
from benchmarks.ledger import Finding, finding
from benchmarks.runner import FormRunner
from packlight.measure import Measurement
from packlight.measure.intervals import median
from packlight.measure.latency import compare
from packlight.measure.quality import evaluate, evaluate_artifact, workload_inputs
from packlight.model import statistics
from packlight.passes.fold import fold
from packlight.passes.quantize import quantize
from packlight.search.candidates import candidates
from packlight.targets import export, get

SPAM = tuple(
    Case(f"{name}_spam", f"packlight.networks:{factory}", (128,), f".data/networks/{name}_spam.plm", "spam-assassin",
         {"classes": 2})
    for name, factory in (("lstm", "lstm_classifier"), ("sentence", "sentence_classifier"))
)  # fmt: skip
RIVALS = ("onnxruntime_quantizer", "static-qdq"), ("nncf_openvino", "int8")
ROUNDS, BUILD_LIMIT_S = 5, 600.0


def study(folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    for case in (*CASES, *SPAM):
        if case.trained:
            try:
                yield from _forms(case, folder)
            except Absent as error:
                yield finding(case.name, "skipped", reason=str(error))
    yield from _times(named("mobilenet_v2_small"))


def _forms(case: Case, folder: Path) -> Iterator[Finding]:
    model, task = case.load(quick=False)
    target = get("onnxruntime")
    model = fold(model)
    whole = export(model, folder / f"{case.name}.onnx", target)
    before = evaluate_artifact(whole, task)
    yield finding(f"{case.name}, float", task.measure_with.name, before.measurement)
    for candidate in candidates(model, target):
        if candidate.quantization is None or candidate.instead_of:
            continue
        name = f"{case.name}, {candidate.name}"
        if candidate.tuned:
            tuned = pl.tune_placement(model, task)
            yield finding(name, "layers left in float", Measurement.exact(len(tuned.excluded), ""))
            if not tuned.excluded:
                continue
        small = tuned.model if candidate.tuned else quantize(model, task, target.numerics, candidate.quantization)
        file = export(small, folder / f"{case.name}-{candidate.name}.onnx", target)
        after = evaluate_artifact(file, task)
        yield finding(name, "drop", after.drop_from(before))
        yield finding(name, "agreement of file and Model", after.agreement_with(evaluate(small, task)))
        yield finding(name, "times smaller", Measurement.exact(whole.bytes / file.bytes, "×"))
        layers = [r for r in statistics(small).layers if r.macs and r.params]
        left = sum(r.macs for r in layers if not r.weight_bits) / sum(r.macs for r in layers)
        yield finding(name, "MACs left in float", Measurement.exact(100 * left, "%"))
        ratio = compare([whole, file], workload_inputs(task, "validation", 1), threads=1)[1].ratio
        yield finding(name, "latency, of float", ratio)


def _times(case: Case) -> Iterator[Finding]:
    """Seconds to calibrate and quantize, in rounds."""
    model, task = case.load(quick=False)
    job = SCRATCH / "jobs" / "quantization_int8"
    make_job(job, case, model, task, quick=False)
    rivals = [
        f for peer, name in RIVALS for f in listed(ROOT / "benchmarks" / "peers" / f"{peer}.py") if f.form == name
    ]
    ours: list[float] = []
    theirs: dict[str, list[float]] = {form.label: [] for form in rivals}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        quantize(model, task, get("onnxruntime").numerics)
        ours.append(time.perf_counter() - began)
        for form in rivals:
            theirs[form.label].append(_built(form, job))
    yield finding(f"{case.name}, packlight", "quantize_s", median(ours, "s"))
    for label, taken in theirs.items():
        yield finding(f"{case.name}, {label}", "quantize_s", median(taken, "s"))
        ratios = (np.array(ours) / np.array(taken)).tolist()
        yield finding(f"{case.name}, packlight over {label}", "time to quantize", median(ratios, "×"))


def _built(form: Form, job: Path) -> float:
    runner = FormRunner(form, job, make(form.peer), BUILD_LIMIT_S)
    runner.close()
    return runner.build_s

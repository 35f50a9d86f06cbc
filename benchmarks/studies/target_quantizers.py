"""Our int8 against each runtime's own quantizer, on the same 256 calibration samples and on the same runtime.

ONNX Runtime's static quantizer (QDQ), NNCF for OpenVINO, PT2E with XNNPACKQuantizer for ExecuTorch, ai-edge-quantizer
for LiteRT: their files as `benchmarks/peers` makes them. Accuracy is paired on the whole test split, latency alternated
in one run (one thread, batch 1): drop is what ours loses against theirs, below zero where ours is better; latency and
bytes are ours of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

import packlight as pl
from benchmarks import ROOT, SCRATCH
from benchmarks.case import named
from benchmarks.environments import make
from benchmarks.forms import Form, listed
from benchmarks.job import make_job
from benchmarks.ledger import Finding, finding
from benchmarks.process import WorkerFailure
from benchmarks.runner import FormRunner
from packlight.errors import PacklightError
from packlight.files import sha256
from packlight.measure import Measurement
from packlight.measure.latency import compare
from packlight.measure.quality import evaluate_artifact, workload_inputs
from packlight.targets import Artifact, installed

RIVALS = {
    "onnxruntime": ("onnxruntime_quantizer", "static-qdq"),
    "openvino": ("nncf_openvino", "int8"),
    "executorch": ("pt2e_xnnpack", "int8"),
    "litert": ("ai_edge_quantizer", "int8"),
}
PARTS = "resnet20", "mobilenet_v2_small", "ds_cnn", "conformer", "sentence_bbc", "unet"
LIMIT_S = 1200.0


def study(name: str, folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    here = {t.name for t in installed()}
    case = named(name)
    model, task = case.load(quick=False)
    job = SCRATCH / "jobs" / f"target_quantizers-{name}"
    make_job(job, case, model, task, quick=False)
    for target, (peer, form_name) in RIVALS.items():
        cell = f"{name}, {target}"
        if target not in here:
            yield finding(cell, "skipped", reason="the runtime is not installed")
            continue
        try:
            ours = pl.export(pl.quantize(model, task, target=target), folder / f"{name}-{target}", target=target)
            yield from _compared(cell, ours, _theirs(peer, form_name, job, ours), task)
        except (PacklightError, WorkerFailure) as error:
            yield finding(cell, "skipped", reason=" ".join(str(error).split())[:300])


def _theirs(peer: str, form_name: str, job: Path, like: Artifact) -> Artifact:
    """The file of a runtime's own quantizer, as an artifact of that runtime."""
    form: Form = next(f for f in listed(ROOT / "benchmarks" / "peers" / f"{peer}.py") if f.form == form_name)
    runner = FormRunner(form, job, make(peer), LIMIT_S)
    runner.close()
    (main,) = (p for p in (job / f"{peer}-{form_name}").glob(f"*{like.path.suffix}"))
    files = [main, *(p for p in main.parent.iterdir() if p.stem == main.stem and p != main)]
    facts = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}
    return Artifact(main, like.target, {**like.manifest, "files": facts})


def _compared(cell: str, ours: Artifact, theirs: Artifact, task: pl.Task) -> Iterator[Finding]:
    mine, other = evaluate_artifact(ours, task), evaluate_artifact(theirs, task)
    yield finding(cell, "drop against the runtime's own quantizer", mine.drop_from(other))
    inputs = workload_inputs(task, "validation", 1)
    yield finding(cell, "latency over the other's", compare([theirs, ours], inputs)[1].ratio)
    ratio = Measurement.exact(ours.bytes / theirs.bytes, "×")
    yield finding(cell, "bytes over the other's", ratio)

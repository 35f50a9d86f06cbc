"""NNCodec at its best swept options beside `.plt`: of the networks as they are, and of networks that were pruned and
trained as packlight does it before it packs, though weight by weight: NNCodec has no waves.

The same networks and budgets as of `packing` and `packing_trained`: what chooses is the drop on validation data (5,000
images) against the network as it was, what is given is that on test data (10,000 images), paired. Of the pruned
networks, the share of weights that gives the smallest file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks import ROOT, SCRATCH
from benchmarks.case import CASES, Case
from benchmarks.environments import make
from benchmarks.forms import listed
from benchmarks.job import make_job
from benchmarks.ledger import Finding, finding
from benchmarks.measure import scores_of
from benchmarks.process import WorkerFailure
from benchmarks.runner import FormRunner
from benchmarks.studies.packing import PARTS as NETWORKS
from benchmarks.studies.packing_trained import CLASSES, MIXED, PLAIN
from benchmarks.studies.packing_trained import PARTS as TRAININGS
from packlight.measure import Measurement
from packlight.measure.quality import Scores, evaluate
from packlight.train import Distillation, Sparsify, Sparsity, fit
from packlight.train.mixing import mixing

BUDGETS = 0.1, 0.5  # points
SHARES = {"lenet300": (0.05, 0.03, 0.02), "lenet5": (0.1, 0.05), "resnet20": (0.3, 0.15)}  # that pruning leaves
LIMIT_S = 7200.0


PARTS = (*NETWORKS, *(f"{name}-pruned" for name in SHARES))


def study(part: str, folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    name = part.removesuffix("-pruned")
    case = next(c for c in CASES if c.name == name)
    yield from _whole(case) if name == part else _pruned(case, folder)


def _whole(case: Case) -> Iterator[Finding]:
    model, task = case.load(quick=False)
    before = evaluate(model, task)
    for most in BUDGETS:
        yield from _told(f"{case.name}, NNCodec within {most} points", _coded(case, model, model, task, most), before)


def _pruned(case: Case, folder: Path) -> Iterator[Finding]:
    model, task = case.load(quick=False)
    task = replace(task, augment=None) if case.name in PLAIN else task
    before = evaluate(model, task)
    best: dict[float, tuple[int, Scores, int, str]] = {}
    for share in SHARES[case.name]:
        hook = Sparsify(Sparsity(1 - share, end=0.6, scope="global", score="sensitivity"))
        smaller = fit(
            model, mixing(task, CLASSES, MIXED), TRAININGS[case.name],
            teacher=model, distillation=Distillation(1.0, 0.3), hooks=[hook],
            checkpoint=folder / f"{case.name}-{share}",
        )  # fmt: skip
        for most in BUDGETS:
            found = _coded(case, smaller, model, task, most)
            if isinstance(found, tuple) and (most not in best or found[0] < best[most][0]):
                best[most] = *found, f"{share:.0%}"
    for most in BUDGETS:
        kept = f" ({best[most][3]} of the weights)" if most in best else ""
        form = f"{case.name}, NNCodec, pruned and trained{kept}, within {most} points"
        yield from _told(form, best[most][:3] if most in best else "no share of the weights keeps the budget", before)


def _coded(
    case: Case, model: pl.Model, reference: pl.Model, task: pl.Task, most: float
) -> tuple[int, Scores, int] | str:
    """Bytes of NNCodec's smallest file within a budget against a reference, its scores on test data, and the bytes of
    the parameters; or why there is none."""
    job = SCRATCH / "jobs" / f"packing_nncodec-{case.name}"
    make_job(job, case, model, task, quick=False, allowed=most, reference=reference)
    form = next(f for f in listed(ROOT / "benchmarks" / "peers" / "nncodec.py") if f.form == "best")
    try:
        runner = FormRunner(form, job, make("nncodec"), LIMIT_S)
    except WorkerFailure as error:
        return str(error)
    try:
        labels = np.load(job / "test.npz")["y"]
        scores = scores_of(runner.predict("test", len(labels)), labels, task)
        return runner.bytes, scores, sum(p.numel() for p in reference.parameters()) * 4
    finally:
        runner.close()


def _told(form: str, found: tuple[int, Scores, int] | str, before: Scores) -> Iterator[Finding]:
    if isinstance(found, str):
        yield finding(form, "skipped", reason=found)
        return
    size, scores, whole = found
    yield finding(form, "bytes", Measurement.exact(size, "bytes"))
    yield finding(form, "times smaller", Measurement.exact(float(np.round(whole / size, 2)), ""))
    yield finding(form, "drop", scores.drop_from(before))

"""NNCodec at its best swept options beside `.plt`: of the networks as they are, and of networks that were pruned and
trained as packlight does it before it packs, though weight by weight: NNCodec has no waves.

The same networks and budgets as of `packing` and `packing_trained`: what chooses is the drop on validation data (5,000
images) against the network as it was, what is given is that on test data (10,000 images), paired. Of the pruned
networks, the share of weights that gives the smallest file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import packlight as pl
from benchmarks import ROOT, SCRATCH
from benchmarks.case import Case, named
from benchmarks.environments import make
from benchmarks.forms import listed
from benchmarks.job import make_job
from benchmarks.ledger import Finding, finding
from benchmarks.measure import scores_of
from benchmarks.process import WorkerFailure
from benchmarks.runner import FormRunner
from benchmarks.sizes import sized
from benchmarks.studies.packing import PARTS as NETWORKS
from benchmarks.studies.packing_trained import TEACHERS, TRAININGS, to_train
from packlight.measure.quality import Scores, evaluate
from packlight.search.packing_trained import lessons
from packlight.train import Sparsify, Sparsity, fit

BUDGETS = 0.1, 0.5  # points
SHARES = {"lenet300": (0.05, 0.03, 0.02), "lenet5": (0.1, 0.05), "resnet20": (0.3, 0.15)}  # that pruning leaves
PARTS = (*NETWORKS, *(f"{name}-pruned" for name in SHARES), *(f"{name}-pruned-taught" for name in TEACHERS))
LIMIT_S = 7200.0


def study(part: str, folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    name, *ways = part.split("-")
    yield from _pruned(named(name), "taught" in ways, folder) if ways else _whole(named(name))


def _whole(case: Case) -> Iterator[Finding]:
    model, task = case.load(quick=False)
    before = evaluate(model, task)
    for most in BUDGETS:
        found = _coded(case, model, model, task, most)
        yield from _told(f"{case.name}, NNCodec within {most} points", found, model, before)


def _pruned(case: Case, taught: bool, folder: Path) -> Iterator[Finding]:
    model, task = to_train(case)
    teacher = named(TEACHERS[case.name]).load(quick=False)[0] if taught else model
    way = f"taught by {TEACHERS[case.name]}" if taught else "trained"
    mixed, follows = lessons(model, teacher, task)
    before = evaluate(model, task)
    best: dict[float, tuple[int, Scores, str]] = {}
    for share in SHARES[case.name]:
        hook = Sparsify(Sparsity(1 - share, end=0.6, scope="global", score="sensitivity"))
        smaller = fit(
            model, mixed, TRAININGS[case.name], hooks=[hook, *follows],
            checkpoint=folder / f"{case.name}-{way}-{share}",
        )  # fmt: skip
        for most in BUDGETS:
            found = _coded(case, smaller, model, task, most)
            if isinstance(found, tuple) and (most not in best or found[0] < best[most][0]):
                best[most] = *found, f"{share:.0%}"
    for most in BUDGETS:
        kept = f" ({best[most][2]} of the weights)" if most in best else ""
        form = f"{case.name}, NNCodec, pruned and {way}{kept}, within {most} points"
        found = best[most][:2] if most in best else "no share of the weights keeps the budget"
        yield from _told(form, found, model, before)


def _coded(case: Case, model: pl.Model, reference: pl.Model, task: pl.Task, most: float) -> tuple[int, Scores] | str:
    """Bytes of NNCodec's smallest file within a budget against a reference, and its scores on test data; or why there
    is none."""
    job = SCRATCH / "jobs" / f"packing_nncodec-{case.name}"
    make_job(job, case, model, task, quick=False, allowed=most, reference=reference)
    form = next(f for f in listed(ROOT / "benchmarks" / "peers" / "nncodec.py") if f.form == "best")
    try:
        runner = FormRunner(form, job, make("nncodec"), LIMIT_S)
    except WorkerFailure as error:
        return str(error)
    try:
        labels = np.load(job / "test.npz")["y"]
        return runner.bytes, scores_of(runner.predict("test", len(labels)), labels, task)
    finally:
        runner.close()


def _told(form: str, found: tuple[int, Scores] | str, network: pl.Model, before: Scores) -> Iterator[Finding]:
    if isinstance(found, str):
        yield finding(form, "skipped", reason=found)
        return
    size, scores = found
    yield from sized(form, size, network, scores.drop_from(before))

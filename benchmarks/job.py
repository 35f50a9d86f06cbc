"""The folder that a form is built from and judged on: float file, Model, task data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

import packlight as pl
from benchmarks.case import Case
from packlight.task import Task

SPLITS = ("calibration", "validation", "test")


def make_job(
    folder: Path, case: Case, model: pl.Model, task: Task, quick: bool, *, allowed: float = 0.1,
    reference: pl.Model | None = None,
) -> None:  # fmt: skip
    """Fill a fresh folder with what every form of a case starts from: `float.onnx` (the fair float file: batch norm
    folded, dynamic batch), `network.plm`, `job.json`, and an .npz for each split:
    an array x0, x1, … for each input, and the labels y.

    allowed: points of validation accuracy that forms which search may lose. reference: against which network, where
    the one to be stored is another (pruned, say): `reference.plm`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = {
        "network": case.network, "factory": case.factory, "factory_options": dict(case.options),
        "input_shape": list(case.shape), "task": case.task_name(quick), "quick": quick, "allowed_drop": allowed,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(facts, indent=1) + "\n")
    model.save(folder / "network.plm")
    if reference is not None:
        reference.save(folder / "reference.plm")
    pl.export(model, folder / "float.onnx", task=task)
    for split in SPLITS:
        data = task.data(split)
        batch = next(data.batches(len(data)))
        assert batch.targets is not None
        np.savez(folder / f"{split}.npz", y=batch.targets, **{f"x{i}": x for i, x in enumerate(batch.inputs)})

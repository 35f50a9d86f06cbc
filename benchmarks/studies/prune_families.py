"""How many networks of timm and transformers packlight prunes to about half of their parameters, as they are written.

A network counts as covered where what is left has at most 60 % of the parameters, no layer was left whole because a
proof failed, and it runs at another batch size, in eval and in train mode. Random weights; small configurations of
transformers, timm's own at small images. One thread, one child process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import environments
from benchmarks.ledger import Finding, finding
from benchmarks.studies.prune_zoo import SMALL, check, complete, parameters, serve
from packlight.measure import Measurement, intervals

ENVIRONMENT = "families"
LIBRARIES = ("transformers", "timm")
NO_EXPORT = "cannot be exported"


def study(folder: Path) -> Iterator[Finding]:
    path = folder / f"{ENVIRONMENT}.jsonl"
    python = environments.make(ENVIRONMENT)
    command = [str(python), "-m", "benchmarks.studies.prune_families", str(path)]
    complete(command)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for library in LIBRARIES:
        mine = [row for row in rows if row["name"].startswith(f"{library}/")]
        for row in mine:
            share = Measurement.exact(100 * row["kept"], "%") if row["kept"] is not None else None
            yield finding(library, f"{row['name']}, parameters kept", share, **row)
        exported = [row for row in mine if NO_EXPORT not in row["error"]]
        wrong = {row["name"]: shortfall(row) for row in mine if shortfall(row)}
        yield finding(library, "networks exported", Measurement.exact(len(exported), f"of {len(mine)}"))
        covered = Measurement.exact(len(mine) - len(wrong), f"of {len(mine)}")
        yield finding(library, "networks covered", covered, uncovered=wrong)
        timed = [row for row in exported if not row["error"]]
        for what, key in (("export", "export_s"), ("analysis, cut and proof", "seconds")):
            yield finding(library, f"seconds of {what}", intervals.median([row[key] for row in timed], "s"))


def shortfall(row: dict[str, Any]) -> str:
    """Why a network is not covered; "" where it is."""
    if row["error"]:
        return str(row["error"])
    if row["rolled_back"]:
        return "; ".join(row["rolled_back"])
    return "" if row["kept"] <= SMALL else f"{row['kept']:.0%} stay: {'; '.join(row['frozen'])}"


# the child


def pruned(name: str) -> dict[str, Any]:
    """kept: the share of the parameters that is left. export_s, seconds: of export; of analysis, cut and proof.
    rolled_back: what the proof found wrong. frozen: layers without a family, and why, where too much is left."""
    import torch

    import packlight as pl
    from benchmarks.families import build
    from packlight.passes.prune import Pruning, prunable, prune

    module, inputs = build(name)
    began = time.monotonic()
    model = pl.load(module, inputs, name=name)
    exported = time.monotonic()
    small = prune(model, Pruning(keep=0.5))
    done = time.monotonic()
    kept = parameters(small) / parameters(model)
    batch = {"batch": 3} if "batch" in model.dims else {}
    for training in (False, True):
        for at in ({}, batch):
            given = model.example_inputs(seed=1, **at)
            with torch.no_grad():
                whole, less = (m.copy().train(training).flat(*given) for m in (model, small))
            check(whole, less)
            if not all(torch.isfinite(y).all() for y in less if y.is_floating_point()):
                raise ValueError("outputs are not finite")
    rolled_back = [note for note in small.notes if "proof" in note or "not pruned" in note]
    frozen = [f"{layer}: {why}" for layer, why in prunable(model).frozen.items()] if kept > SMALL else []
    return {
        "kept": kept, "export_s": exported - began, "seconds": done - exported, "free_batch": bool(batch),
        "rolled_back": rolled_back, "frozen": frozen[:8], "notes": list(model.notes),
    }  # fmt: skip


if __name__ == "__main__":
    from benchmarks.families import NAMES

    sys.exit(serve(Path(sys.argv[1]), sys.argv[2:] or NAMES, pruned))

"""How many of 161 architectures packlight and Torch-Pruning prune to about half of their parameters, untold of details.

A network counts as covered where what is left has at most 60 % of the parameters, runs on the inputs that it was
traced with and gives outputs of the same shapes. Torch-Pruning: MetaPruner, L2 group importance, from a fresh network
for each of several ratios until it is small enough; the layers that make the outputs are named to it as ignored, heads
of attention are not (which its users would do by hand). One thread, a child process a tool; random weights.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import ROOT, environments
from benchmarks.ledger import Finding, finding
from packlight.measure import Measurement, intervals

TOOLS = {"packlight": "packlight", "Torch-Pruning": "torch_pruning"}  # → environment
SMALL = 0.6
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7)
_AT_ONCE, _MORE = 25, 75  # networks a child; its exit code where there are more
LIMIT_S = 180  # a network


def study(folder: Path) -> Iterator[Finding]:
    for tool, environment in TOOLS.items():
        path = folder / f"{environment}.jsonl"
        python = environments.make(environment)
        command = [str(python), "-m", "benchmarks.studies.prune_zoo", tool, str(path)]
        complete(command)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            share = Measurement.exact(100 * row["kept"], "%") if row.get("kept") is not None else None
            yield finding(tool, f"{row['name']}, parameters kept", share, **row)
        right = [row["name"] for row in rows if covered(row)]
        yield finding(tool, "networks covered", Measurement.exact(len(right), f"of {len(rows)}"), networks=right)
        yield finding(tool, "seconds a network", intervals.median([row["seconds"] for row in rows], "s"))


def covered(row: dict[str, Any]) -> bool:
    return not row["error"] and row["kept"] <= SMALL


def surroundings() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


# the child


def complete(command: list[str]) -> None:
    """Run a child that serves until it is through; what libraries keep in memory goes with each."""
    while (code := subprocess.run(command, cwd=ROOT, check=False, env=surroundings()).returncode) == _MORE:
        pass
    if code:
        raise subprocess.CalledProcessError(code, command)


def serve(path: Path, names: Iterable[str], measure: Callable[[str], dict[str, Any]]) -> int:
    """Append a line a network that the file does not have yet: what `measure` finds, or the error that it raises. The
    exit code: 0, or _MORE where there are more than one child takes."""
    import torch

    torch.set_num_threads(1)
    done = {json.loads(line)["name"] for line in path.read_text().splitlines()} if path.exists() else set()
    signal.signal(signal.SIGALRM, _too_long)
    left = [name for name in names if name not in done]
    for name in left[:_AT_ONCE]:
        with open(path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(_row(name, measure)) + "\n")
    return _MORE if len(left) > _AT_ONCE else 0


def _row(name: str, measure: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    began = time.monotonic()
    signal.alarm(LIMIT_S)
    try:
        return {"name": name, "error": "", **measure(name)}
    except Exception as error:  # noqa: BLE001  (whatever a tool raises is its result)
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        return {"name": name, "kept": None, "seconds": time.monotonic() - began, "error": why[:300]}
    finally:
        signal.alarm(0)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {LIMIT_S} s")


def with_packlight(name: str) -> dict[str, Any]:
    """kept: the share of the parameters that is left. seconds: of export, cut and proof."""
    from architectures import build

    import packlight as pl
    from packlight.passes.prune import Pruning, prune

    module, inputs = build(name)
    began = time.monotonic()
    model = pl.load(module, inputs, name=name)
    small = prune(model, Pruning(keep=0.5))
    seconds = time.monotonic() - began
    check(model.flat(*inputs), small.flat(*inputs))
    return {"kept": parameters(small) / parameters(model), "seconds": seconds}


def with_torch_pruning(name: str) -> dict[str, Any]:
    import torch_pruning as tp
    from architectures import build

    import packlight as pl
    from packlight.passes.prune import prunable

    module, inputs = build(name)
    frozen = prunable(pl.load(module, inputs, name=name)).frozen
    before, wanted = parameters(module), _flat(module(*inputs))
    outputs = [layer for layer, why in frozen.items() if why == "an output of the network"]
    began, kept = time.monotonic(), 1.0
    for ratio in RATIOS:
        module, _ = build(name)
        ignored = [m for n, m in module.named_modules() if n in outputs]
        pruner = tp.pruner.MetaPruner(
            module, inputs, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio,
            ignored_layers=ignored,
        )  # fmt: skip
        pruner.step()
        kept = parameters(module) / before
        if kept <= SMALL:
            break
    seconds = time.monotonic() - began
    check(wanted, _flat(module(*inputs)))
    return {"kept": kept, "seconds": seconds}


def _flat(outputs: Any) -> list[Any]:
    from torch.utils._pytree import tree_leaves

    return list(tree_leaves(outputs))


def check(before: Any, after: Any) -> None:
    shapes = [[tuple(y.shape) for y in outputs] for outputs in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs had shapes {shapes[0]} and have {shapes[1]}")


def parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


_TOOLS = {"packlight": with_packlight, "Torch-Pruning": with_torch_pruning}

if __name__ == "__main__":
    from architectures import ARCHITECTURES

    sys.exit(serve(Path(sys.argv[2]), sys.argv[3:] or ARCHITECTURES, _TOOLS[sys.argv[1]]))

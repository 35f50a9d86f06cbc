"""Run a study and append its rows to the ledger (mode "study")."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from types import ModuleType

from benchmarks import SCRATCH
from benchmarks.case import Absent
from benchmarks.ledger import DONE, Finding, append, finding
from benchmarks.run import passed_over, stamped, state
from packlight.errors import PacklightError
from packlight.measure import Measurement

STUDIES = Path(__file__).parent / "studies"


def names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.py") if path.stem != "__init__")


def run(name: str, ledger: Path) -> None:
    """Findings are printed as they come, and appended when all are there. Of a study in parts, each part is a case of
    the ledger, "STUDY:PART", and `name` may choose some: "packing:lenet*"; those that this state of the code has
    complete rows of are passed over, and those whose network is not on this machine."""
    name, _, pattern = name.partition(":")
    if name not in names():
        raise PacklightError(f"no study {name!r}; there are {', '.join(names())}")
    study = importlib.import_module(f"benchmarks.studies.{name}")
    code = state()
    folder = SCRATCH / "studies" / name / code.run("study")
    folder.mkdir(parents=True, exist_ok=True)
    for case, find in _cases(name, study, pattern, folder).items():
        if case != name and passed_over(case, ledger, code.run("study")):
            continue
        began, findings = time.monotonic(), []
        try:
            for found in find():
                findings.append(found)
                value = f"{found['value']:.4g}" if found["value"] is not None else "–"
                print(f"{case}: {found['form']}, {found['what']}: {value} {found['unit']}", file=sys.stderr, flush=True)
        except Absent as error:
            print(f"{case}: left out, {error}", file=sys.stderr)
            continue
        findings.append(finding("", DONE, Measurement.exact(time.monotonic() - began, "s")))
        append(ledger, stamped(findings, code, "study", case, ""))


def _cases(name: str, study: ModuleType, pattern: str, folder: Path) -> dict[str, Callable[[], Iterable[Finding]]]:
    """Case of the ledger → what measures it: `study(folder)`, or `study(part, folder)` for each of its PARTS."""
    parts = getattr(study, "PARTS", ())
    if not parts and not pattern:
        return {name: partial(study.study, folder)}
    chosen = [p for p in parts if fnmatchcase(p, pattern or "*")]
    if not chosen:
        raise PacklightError(f"study {name!r} has no part {pattern!r}; there are {', '.join(parts) or 'none'}")
    return {f"{name}:{p}": partial(study.study, p, folder) for p in chosen}

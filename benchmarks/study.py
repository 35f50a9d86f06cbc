"""Run a study and append its rows to the ledger (mode "study")."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from types import ModuleType

from benchmarks import SCRATCH
from benchmarks.ledger import DONE, Finding, append, finding, read
from benchmarks.run import stamped, state
from packlight.errors import PacklightError
from packlight.files import write_text
from packlight.measure import Measurement

STUDIES = Path(__file__).parent / "studies"


def names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.py") if path.stem != "__init__")


def run(name: str, ledger: Path) -> None:
    """Findings are printed as they come, and appended when all are there. Of a study in parts, each part is a case of
    the ledger, "STUDY:PART", and `name` may choose some: "packing:lenet*"; those that this state of the code has
    complete rows of are passed over. What else a killed study had found it keeps in .bench/studies, and goes on."""
    name, _, pattern = name.partition(":")
    if name not in names():
        raise PacklightError(f"no study {name!r}; there are {', '.join(names())}")
    study = importlib.import_module(f"benchmarks.studies.{name}")
    commit, changes = state()
    run_name = f"study-{commit[:12]}{'-' + changes if changes else ''}"
    folder = SCRATCH / "studies" / name / run_name
    folder.mkdir(parents=True, exist_ok=True)
    for case, find in _cases(name, study, pattern, folder).items():
        if case != name and case in _complete(ledger, run_name):
            print(f"{case}: complete in {ledger} (run {run_name})", file=sys.stderr)
            continue
        began, findings = time.monotonic(), []
        for found in find():
            findings.append(found)
            value = f"{found['value']:.4g}" if found["value"] is not None else "–"
            print(f"{case}: {found['form']}, {found['what']}: {value} {found['unit']}", file=sys.stderr, flush=True)
        findings.append(finding("", DONE, Measurement.exact(time.monotonic() - began, "s")))
        append(ledger, stamped(findings, run_name, "study", case, "", (commit, changes)))


def _cases(name: str, study: ModuleType, pattern: str, folder: Path) -> dict[str, Callable[[], Iterable[Finding]]]:
    """Case of the ledger → what measures it: `study(folder)`, or `study(part, folder)` for each of its PARTS."""
    parts = getattr(study, "PARTS", ())
    if not parts and not pattern:
        return {name: partial(study.study, folder)}
    chosen = [p for p in parts if fnmatchcase(p, pattern or "*")]
    if not chosen:
        raise PacklightError(f"study {name!r} has no part {pattern!r}; there are {', '.join(parts) or 'none'}")
    return {f"{name}:{p}": partial(study.study, p, folder) for p in chosen}


def _complete(ledger: Path, run_name: str) -> set[str]:
    rows = read(ledger) if ledger.exists() else []
    return {row.case for row in rows if row.run == run_name and row.what == DONE}


def part(folder: Path, name: str, find: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a part of a study finds; of a part that an earlier, killed run had finished, what it found then."""
    path = folder / f"{name}.json"
    if path.is_file():
        yield from json.loads(path.read_text(encoding="utf-8"))
        return
    found = []
    for one in find():
        found.append(one)
        yield one
    write_text(path, json.dumps(found))

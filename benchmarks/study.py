"""Run a study and append its rows to the ledger (mode "study")."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks import SCRATCH
from benchmarks.ledger import DONE, Finding, append, finding
from benchmarks.run import stamped, state
from packlight.errors import PacklightError
from packlight.files import write_text
from packlight.measure import Measurement

STUDIES = Path(__file__).parent / "studies"


def names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.py") if path.stem != "__init__")


def run(name: str, ledger: Path) -> None:
    """Findings are printed as they come; a killed study goes on from what it kept in .bench/studies."""
    if name not in names():
        raise PacklightError(f"no study {name!r}; there are {', '.join(names())}")
    commit, changes = state()
    run_name = f"study-{commit[:12]}{'-' + changes if changes else ''}"
    folder = SCRATCH / "studies" / name / run_name
    folder.mkdir(parents=True, exist_ok=True)
    began, findings = time.monotonic(), []
    for found in importlib.import_module(f"benchmarks.studies.{name}").study(folder):
        findings.append(found)
        value = f"{found['value']:.4g}" if found["value"] is not None else "–"
        print(f"{name}: {found['form']}, {found['what']}: {value} {found['unit']}", file=sys.stderr, flush=True)
    findings.append(finding("", DONE, Measurement.exact(time.monotonic() - began, "s")))
    append(ledger, stamped(findings, run_name, "study", name, "", (commit, changes)))


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

"""A run: each case in a process of its own, its rows appended when it is complete."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ROOT
from benchmarks.case import Case
from benchmarks.environments import make
from benchmarks.forms import discover
from benchmarks.ledger import DONE, FAILED, Finding, Row, append, complete, finding
from benchmarks.process import Worker, WorkerFailure
from benchmarks.runner import THREADS
from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.machine import describe

_CASE_LIMIT_S = {True: 900.0, False: 3 * 3600.0}
_MEASURED = ("packlight", "benchmarks", ":!benchmarks/results")


def run(cases: Sequence[Case], quick: bool, ledger: Path, again: bool = False) -> None:
    """Measure cases and append their rows. A case that this state of the code has complete rows of is passed over."""
    code = state()
    mode = "quick" if quick else "full"
    missing = [case for case in cases if again or not passed_over(case.name, ledger, code.run(mode))]
    _make_environments(missing, quick)
    for case in missing:
        print(f"{case.name} ({mode})", file=sys.stderr, flush=True)
        began = time.monotonic()
        findings = _findings(case, quick)
        taken = Measurement.exact(time.monotonic() - began, "s")
        if all(f["form"] for f in findings):  # a case that was skipped or failed as a whole is tried again
            findings.append(finding("", DONE, taken))
        append(ledger, stamped(findings, code, mode, case.name, case.network))
        print(f"{case.name}: {taken.value:.0f} s", file=sys.stderr, flush=True)


class State(NamedTuple):
    """Of the code. changes: a digest of what the working tree changes in the measured code since the commit, or ""."""

    commit: str
    changes: str

    def run(self, mode: str) -> str:
        """The id of a run of this code."""
        return "-".join(filter(None, (mode, self.commit[:12], self.changes)))


def passed_over(case: str, ledger: Path, run: str) -> bool:
    """Whether a run has measured a case completely; if so, says it."""
    done = case in complete(ledger, run)
    if done:
        print(f"{case}: complete in {ledger} (run {run})", file=sys.stderr)
    return done


def stamped(findings: Sequence[Finding], code: State, mode: str, case: str, network: str) -> list[Row]:
    """Findings as rows of now, of this machine, and of a state of the code."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    stamp: dict[str, Any] = {"run": code.run(mode), "time": now, "mode": mode, "case": case, "network": network,
                             "commit": code.commit, "dirty": bool(code.changes), "machine": describe()}  # fmt: skip
    return [Row(**stamp, **f) for f in findings]


def _make_environments(cases: Sequence[Case], quick: bool) -> None:
    """Those of every form that will run; where one cannot be made, its forms will be skipped with the reason."""
    forms = discover()[0] if cases else []
    for peer in dict.fromkeys(form.peer for form in forms if any(form.fits(c.network, quick) for c in cases)):
        try:
            make(peer)
        except PacklightError as error:
            print(f"environment {peer}: {error}", file=sys.stderr)


def _findings(case: Case, quick: bool) -> list[Finding]:
    """What the case's process found; a crash or the time limit is one finding about the whole case."""
    command = [sys.executable, "-m", "benchmarks", "case", case.name, *(["--quick"] if quick else [])]
    with Worker(command, None, THREADS, leads=True) as worker:
        try:
            return list(worker.answer(_CASE_LIMIT_S[quick], f"case {case.name}")["findings"])
        except WorkerFailure as failure:
            print(f"  {failure}", file=sys.stderr)
            return [finding("", FAILED, reason=str(failure))]


def state() -> State:
    """Of the code as it is now."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changes = _git("diff", "HEAD", "--", *_MEASURED)
        new = _git("ls-files", "--others", "--exclude-standard", "--", *_MEASURED).split("\n")
    except (OSError, subprocess.CalledProcessError) as error:
        raise PacklightError(f"benchmarks are run in a git checkout, so that numbers have a commit: {error}") from error
    for path in filter(None, new):
        changes += hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
    return State(commit, hashlib.sha256(changes.encode()).hexdigest()[:8] if changes else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

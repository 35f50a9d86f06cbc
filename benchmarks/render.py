"""Markdown tables from the ledger, printed or put into the blocks of README.md and docs/*.md.

A block is `<!-- table: bench MODE CASE … -->` or `<!-- table: bench MODE CASE … | FORM, … -->` up to
`<!-- end of table -->`; CASE and FORM may be shell patterns. MODE "study" lists what studies measured, a line a number;
"grid" has a line for each thing that a study measured and a column for each number that FORM names; `; OF, …` after
these chooses the things. "cells" is for studies whose things are called "COLUMN, LINE": a line for each LINE, a column
for each COLUMN of `; COLUMN, …`, and in each cell the numbers that FORM names. Of a study in parts all are meant,
"STUDY:PART" chooses some.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks import ROOT
from benchmarks.case import CASES
from benchmarks.forms import FLOAT, OURS
from benchmarks.interleave import ratio
from benchmarks.ledger import DONE, FAILED, SKIPPED, Row, Rows, cases
from packlight.errors import PacklightError
from packlight.files import write_text
from packlight.measure import Measurement
from packlight.task.metrics import NAMED as METRICS

BATCHES = (1, 16)
USEFUL_DROP = 1.0  # points
_HEAD = (
    "| network | form | kB | times smaller | ms, batch 1 | times faster | ms, batch 16 | times faster "
    "| score % | drop, points [95 %] |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
)
_BLOCK = re.compile(r"(<!-- table: bench (\w+) ([^>|]*?)(?: \| ([^>]*?))? -->\n).*?(<!-- end of table -->)", re.DOTALL)
_NONE, REFUSED = "–", "refused"


def everything(rows: Sequence[Row], mode: str) -> str:
    """The table of every complete case of a mode."""
    found = cases(rows, mode)
    if not found:
        raise PacklightError(f"the ledger has no complete {mode} case; `python -m benchmarks run` measures")
    return table(found)


def table(found: dict[str, Rows], forms: Sequence[str] = ("*",)) -> str:
    """One table of several cases and of the forms that fit a pattern; under it packlight's forms against the fastest of
    the others, what is missing, and when, where and on what commit each case was measured."""
    lines = [_HEAD]
    for name, rows in found.items():
        shown = [form for form, what, _ in rows if what == "file_bytes"]
        lines += [_line(name, form, rows) for form in shown if any(fnmatchcase(form, p) for p in forms)]
    remarks = [
        remark for name, rows in found.items() for remark in (*_rivals(name, rows, forms), *_missing(name, rows))
    ]
    remarks += [provenance(name, rows) for name, rows in found.items()]
    return "\n".join([*lines, "", *remarks])


@dataclass
class Study:
    """What a study measured, its parts together. origins: a sentence a part, which command measured it."""

    rows: Rows = field(default_factory=dict)
    origins: list[str] = field(default_factory=list)


def studies(found: dict[str, Rows], patterns: Sequence[str] = ("*",)) -> dict[str, Study]:
    """Studies by name, of the cases that fit a pattern, or whose study does."""
    joined: dict[str, Study] = {}
    for case, rows in found.items():
        name = case.partition(":")[0]
        if any(fnmatchcase(n, p) for n in (case, name) for p in patterns):
            study = joined.setdefault(name, Study())
            study.rows.update(rows)
            study.origins.append(provenance(case, rows))
    return joined


def listing(found: dict[str, Study], whats: Sequence[str] = ("*",)) -> str:
    """One table of studies, a line a number; of those whose name fits a pattern."""
    lines = ["| study | of | measured | value [95 %] | n |", "|---|---|---|--:|--:|"]
    for name, study in found.items():
        for (form, what, _), row in study.rows.items():
            if form and any(fnmatchcase(what, p) for p in whats):
                assert row.value is not None
                assert row.low is not None
                assert row.high is not None
                shown = Measurement(row.value, row.unit, row.n, row.low, row.high)
                lines.append(f"| {name} | {form} | {what.replace('_', ' ')} | {shown} | {row.n:,} |")
    return "\n".join([*lines, "", *(origin for study in found.values() for origin in study.origins)])


def grid(found: dict[str, Study], whats: Sequence[str], of: Sequence[str] = ("*",)) -> str:
    """One table a study: a line for each thing whose name fits a pattern of `of`, a column for each of `whats` that was
    measured; what was refused in a list below it, a line a reason."""
    parts = []
    for study in found.values():
        rows = study.rows
        forms = dict.fromkeys(form for form, _, _ in rows if form)
        shown = [form for form in forms if any(fnmatchcase(form, p) for p in of)]
        columns = [w for w in whats if any((form, w, None) in rows for form in shown)]
        lines = ["| | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
        reasons: dict[str, list[str]] = {}
        for form in shown:
            cells = [_cell(rows.get((form, what, None))) for what in columns]
            if any(cell != _NONE for cell in cells):
                lines.append(f"| {form} | " + " | ".join(cells) + " |")
            for (other, what, _), row in rows.items():
                if other == form and what in (REFUSED, SKIPPED):
                    reasons.setdefault(f"{what}: {row.detail['reason']}", []).append(form)
        refused = [f"* {', '.join(those)} {reason}" for reason, those in reasons.items()]
        parts += ["\n".join(lines), "\n".join([*refused, *study.origins])]
    return "\n\n".join(parts)


def cells(found: dict[str, Study], whats: Sequence[str], columns: Sequence[str]) -> str:
    """One table a study, numbers without their intervals; what was refused says so."""
    parts = []
    for study in found.values():
        rows = study.rows
        present = [c for c in columns if any(form.startswith(f"{c}, ") for form, _, _ in rows)]
        lines = list(dict.fromkeys(
            form.removeprefix(f"{c}, ") for c in present for form, _, _ in rows if form.startswith(f"{c}, ")
        ))  # fmt: skip
        table = ["| | " + " | ".join(present) + " |", "|---|" + "---|" * len(present)]
        for line in lines:
            shown = (_numbers(rows, f"{column}, {line}", whats) for column in present)
            table.append(f"| {line} | " + " | ".join(shown) + " |")
        parts += ["\n".join(table), "\n".join(study.origins)]
    return "\n\n".join(parts)


def _numbers(rows: Rows, form: str, whats: Sequence[str]) -> str:
    if (form, REFUSED, None) in rows:
        return REFUSED
    measured = (rows.get((form, what, None)) for what in whats)
    shown = [_brief(row.value, row.unit) for row in measured if row is not None and row.value is not None]
    return " · ".join(shown) or _NONE


def _brief(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e6:.2f} MB"
    return f"{value:.3g} ms" if unit == "ms" else f"{value:.2f} {unit}".strip()


def _cell(row: Row | None) -> str:
    if row is None or row.value is None or row.low is None or row.high is None:
        return _NONE
    return str(Measurement(row.value, row.unit, row.n, row.low, row.high))


def provenance(name: str, rows: Rows) -> str:
    """Which command measured a case, when, where, and on what commit."""
    row = next(iter(rows.values()))
    machine, dirty = row.machine, " with uncommitted changes" if row.dirty else ""
    seconds, quick = rows["", DONE, None].value or 0.0, "--quick " if row.mode == "quick" else ""
    command = f"study {name}" if row.mode == "study" else f"run {quick}--only {name}"
    return (
        f"* {name}: `python -m benchmarks {command}`, {row.time[:16]} UTC, commit {row.commit[:12]}"
        f"{dirty}, {machine.get('processor')}, {machine.get('cores')} cores, one thread, {seconds:.0f} s."
    )


def write(rows: Sequence[Row]) -> Iterator[Path]:
    """Fill every block of README.md and docs/*.md and draw the plots; the files that changed."""
    from benchmarks.plot import draw, draw_growth

    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = path.read_text(encoding="utf-8")
        new = fill(old, rows, path.name)
        if new != old:
            write_text(path, new)
            yield path
    if found := cases(rows, "full") or cases(rows, "quick"):
        yield draw(found, ROOT / "docs" / "benchmarks.svg")
    if deeper := cases(rows, "study").get("pruning_depth"):
        yield draw_growth(deeper, "analysis_s", ROOT / "docs" / "pruning_depth.svg")


def fill(text: str, rows: Sequence[Row], where: str) -> str:
    """A document with its blocks filled."""

    def block(match: re.Match[str]) -> str:
        start, mode, patterns, forms, end = match.groups()
        if mode in ("study", "grid", "cells"):
            chosen = studies(cases(rows, "study"), patterns.split())
            if mode == "cells" and chosen:
                whats, _, columns = (forms or "").partition("; ")
                return f"{start}{cells(chosen, whats.split(', '), columns.split(', '))}\n{end}"
            if mode == "grid" and chosen:
                whats, _, of = (forms or "").partition("; ")
                return f"{start}{grid(chosen, whats.split(', '), of.split(', ') if of else ('*',))}\n{end}"
            shown = listing(chosen, (forms or "*").split(", ")) if chosen else "Not measured yet."
            return f"{start}{shown}\n{end}"
        wanted = {n: r for n, r in cases(rows, mode).items() if any(fnmatchcase(n, p) for p in patterns.split())}
        if not wanted and not any(fnmatchcase(case.name, p) for case in CASES for p in patterns.split()):
            raise PacklightError(f"{where}: no case fits {patterns!r}; there are {', '.join(c.name for c in CASES)}")
        content = table(wanted, (forms or "*").split(", ")) if wanted else "Not measured yet."
        return f"{start}{content}\n{end}"

    return _BLOCK.sub(block, text)


def _line(case: str, form: str, rows: Rows) -> str:
    size, smaller = rows[form, "file_bytes", None], rows[form, "times_smaller", None]
    cells = [case, form, f"{(size.value or 0) / 1e3:,.1f}", f"{smaller.value:.2f}"]
    for batch in BATCHES:
        time, against = rows.get((form, "latency_ms", batch)), rows.get((form, "latency_ratio", batch))
        cells.append(f"{time.value:.3f}" if time else _NONE)
        cells.append(_speed(against) if against else _NONE)
    quality = next((rows[form, name, None] for name in METRICS if (form, name, None) in rows), None)
    drop = rows.get((form, "drop_points", None))
    cells.append(f"{quality.value:.2f}" if quality else _NONE)
    cells.append(_interval(drop) if drop else _NONE)
    return "| " + " | ".join(cells) + " |"


def _rivals(case: str, rows: Rows, forms: Sequence[str]) -> Iterator[str]:
    """A sentence a form of ours that fits a pattern: its speed against the fastest form of the other libraries that
    still does its job (drop of at most USEFUL_DROP points), timed in the same run."""
    timed = list(dict.fromkeys(form for form, what, _ in rows if what == "latency_ms"))
    for mine in (f for f in timed if f.startswith(OURS) and any(fnmatchcase(f, p) for p in forms)):
        told = []
        for batch in BATCHES:
            others = [f for f in timed if _useful(f, rows) and (f, "latency_ms", batch) in rows]
            if others and (mine, "latency_ms", batch) in rows:
                against = {f: _ratio(rows, mine, f, batch) for f in others}
                fastest = max(against, key=lambda f: against[f].value)
                told.append(f"{_speed(against[fastest])} (batch {batch}; {fastest})")
        if told:
            agrees = rows.get((mine, "model_agreement", None))
            also = f"; file and Model agree on {agrees.value:.2f} % of {agrees.n:,} test images" if agrees else ""
            yield (
                f"* {case}, {mine}: {' and '.join(told)} times the speed of the fastest form of others that loses at "
                f"most a point{also}."
            )


def _useful(form: str, rows: Rows) -> bool:
    """Whether a form is another library's and keeps the accuracy, where that was measured."""
    drop = rows.get((form, "drop_points", None))
    return form != FLOAT and not form.startswith(OURS) and (drop is None or (drop.value or 0.0) <= USEFUL_DROP)


def _missing(case: str, rows: Rows) -> Iterator[str]:
    """A sentence for all forms that were skipped or failed for the same reason."""
    why: dict[tuple[str, str], list[str]] = {}
    for (form, what, _), row in rows.items():
        if what in (SKIPPED, FAILED):
            why.setdefault((what, row.detail["reason"]), []).append(form)
    for (what, reason), forms in why.items():
        yield f"* {case}, {what}: {', '.join(forms)} ({reason})."


def _ratio(rows: Rows, mine: str, theirs: str, batch: int) -> Measurement:
    return ratio(*(rows[form, "latency_ms", batch].detail["rounds"] for form in (mine, theirs)))


def _speed(found: Row | Measurement) -> str:
    """A ratio of times as how many times faster, with its interval."""
    assert found.value and found.low and found.high
    return f"{1 / found.value:.2f} [{1 / found.high:.2f}, {1 / found.low:.2f}]"


def _interval(row: Row) -> str:
    return f"{row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"

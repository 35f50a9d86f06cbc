"""Results as text for people, on standard output."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.report import format as fmt

if TYPE_CHECKING:
    from rich.console import Console

    from packlight.model import Model, Statistics

_WIDE = 200  # columns where no terminal says how many there are
_NAMED = 4
_NUMBER = re.compile(r"([−–]?[\d,.]*(\d%?|×| \S+)?( \[.*\])?)\Z")  # with a unit, an interval, or nothing at all


def as_json(value: Any) -> None:
    """A JSON document."""
    print(json.dumps(value, indent=2, allow_nan=False))


def line(text: str = "") -> None:
    """A line of plain text."""
    print(text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table: numbers to the right and whole, names and sentences to the left and folded where they must."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    needed = sum(max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)) - 2
    gap = 2 if needed <= console.width else 1
    made = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for i, title in enumerate(header):
        numbers = i > 0 and all(_NUMBER.match(row[i]) for row in rows)
        made.add_column(
            Text(title), justify="right" if numbers else "left", no_wrap=numbers, overflow="fold",
            min_width=min(len(title), 8),
        )  # fmt: skip
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    console.print(made)


def statistics(network: Model, counted: Statistics) -> None:
    """The layer table of a network, and its sums."""
    rows = [
        [r.name, r.operator, "×".join(map(str, r.output)), fmt.count(r.params), fmt.count(r.macs),
         fmt.count(r.weight_bytes), str(r.weight_bits or "")]
        for r in counted.layers
    ]  # fmt: skip
    bits = any(r.weight_bits for r in counted.layers)
    header = ["layer", "operator", "output", "params", "MACs", "bytes", "bits"]
    table(header if bits else header[:-1], rows if bits else [row[:-1] for row in rows])
    line()
    for spec in network.inputs:
        line(f"takes   {spec.name}: {spec}")
    for spec in network.outputs:
        line(f"gives   {spec.name}: {spec}")
    line(f"steps   {' → '.join(map(str, network.lineage))}")
    line(
        f"costs   {fmt.count(counted.params)} parameters, {fmt.size(counted.weight_bytes)} of weights; at batch "
        f"{counted.batch} {fmt.compact(counted.macs)} MACs and {fmt.size(counted.peak_activation_bytes)} of activations"
    )
    for note in network.notes:
        line(f"note    {note}")


def comparison(found: Mapping[str, Any]) -> None:
    """A row a file, and what is not there and why."""
    from packlight.report.comparison import COLUMNS, cells

    rows = [r for r in found["rows"] if not r["refused"]]
    line(f"{found['name']}: {found['metric']} on the {found['split']} data of {found['task']}, "
         f"{fmt.value(found['before'])} in PyTorch before; * the fastest that loses at most one point")  # fmt: skip
    line()
    table(
        ["runtime", "form", *(title for _, title in COLUMNS)],
        [[r["target"], f"{r['form']}{' *' if r['best'] else ''}", *cells(r)] for r in rows],
    )
    for row in found["rows"]:
        if row["refused"]:
            line(f"not there: {row['target']} {row['form']}: {row['refused']}")
        for note in row["notes"]:
            line(f"note: {row['target']} {row['form']}: {note}")


def measurements(found: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a measurement."""
    table(
        ["measurement", "value", "95 % interval", "n"],
        [[name, fmt.value(m), fmt.interval(m), fmt.count(m["n"])] for name, m in found.items()],
    )


def result(ledger: Mapping[str, Any], out: Path) -> None:
    """What a search found: a row a form, then what was not shipped and why, then the verdict."""
    best = ledger["best"]
    forms = [ledger["baseline"], *(best if c["name"] == best["name"] else c for c in ledger["candidates"])]
    quality = ledger["metric"]
    unit = best["measurements"]["drop_points"]["unit"]
    table(
        ["  form", "size", "smaller", "latency", "faster", quality, f"drop, {unit} [95 %]"],
        [_row(form, best["name"]) for form in forms],
    )
    line()
    for split in dict.fromkeys(form["split"] for form in forms):
        names = [f["name"] for f in forms if f["split"] == split]
        n = next(f["measurements"]["quality"]["n"] for f in forms if f["split"] == split)
        line(f"{quality} of {named(names)}: on {fmt.count(n)} samples of {split} data")
    for form in forms:
        if form["refused"]:
            line(f"refused: {form['name']}, {form['refused']}")
    for name, why in ledger["skipped"].items():
        line(f"not tried: {name}, {why}")
    kept = [note.split(" stays in float: ", 1) for note in best["notes"] if " stays in float: " in note]
    if kept:
        line(f"{best['name']} keeps in float: {named([f'{layer} ({why})' for layer, why in kept])}")
    for note in ledger["notes"]:
        line(f"note: {note}")
    line()
    _verdict(ledger)
    line(f"wrote {best['artifact']}, manifest.json, result.json and report.html to {out}/")


def _row(form: Mapping[str, Any], best: str) -> list[str]:
    m = form["measurements"]
    is_baseline = form["name"] == "baseline"
    drop, span = fmt.figure(m["drop_points"])[0], fmt.interval(m["drop_points"]).replace(" to ", ", ")
    return [
        ("→ " if form["name"] == best else "  ") + form["name"],
        fmt.value(m["file_bytes"]),
        "" if is_baseline else fmt.value(m["file_ratio"]),
        fmt.value(m["latency_ms"]),
        "" if is_baseline else fmt.value(fmt.inverse(m["latency_ratio"])),
        fmt.value(m["quality"]),
        "" if is_baseline else drop + (f" [{span}]" if span else ""),
    ]


def _verdict(ledger: Mapping[str, Any]) -> None:
    from rich.text import Text

    best = ledger["best"]
    state, style = ("NOT met", "bold red")
    if ledger["met"]:
        state, style = ("met and proven", "bold green") if ledger["proven"] else ("met, not proven", "bold yellow")
    text = Text.assemble(f"budget {ledger['budget']}: ", (state, style), f" ({ledger['reason']})")
    _console().print(text, soft_wrap=True)
    if best["name"] != ledger["baseline"]["name"]:
        agreement = best["measurements"]["agreement"]
        line(f"{best['name']} decides like the float baseline on {fmt.value(agreement)} of the {best['split']} data")


def named(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE, file=sys.stdout)

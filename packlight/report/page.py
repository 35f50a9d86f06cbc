"""One self-contained HTML page from a search's ledger: it opens without a network and asks for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packlight.report import format as fmt
from packlight.report import ledger, summary
from packlight.report.layers import layer_table
from packlight.report.plot import packed_plotly, plot

_HERE = Path(__file__).parent
_MACHINE = {
    "processor": "Processor", "architecture": "Architecture", "cores": "Cores", "instructions": "Instructions",
    "memory_bytes": "Memory", "system": "System", "python": "Python",
}  # fmt: skip
_COLUMNS = {
    "quality": "quality", "drop": "drop_points", "agreement": "agreement", "latency": "latency_ms",
    "file": "file_bytes", "parity": "parity_error",
}  # fmt: skip


def render(result: Mapping[str, Any]) -> str:
    """The page of a search.

    result: what `Result.as_json()` gives, or a `result.json` read back. Measurements and facts that are not
    there are left out of the page. Every text is escaped: names come from strangers' networks.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(contents(result))


def contents(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every text and number on the page, by name."""
    baseline, best = result["baseline"], result["best"]
    figure = plot(result)
    same = ledger.ships_baseline(result)
    return {
        "name": str(result.get("name") or "network"),
        "target": result.get("target"),
        "task": result.get("task"),
        "budget": result.get("budget"),
        "verdict": summary.verdict(result),
        "artifact": best.get("artifact"),
        "cards": summary.cards(result),
        "comparison": summary.comparison(result),
        "same": same,
        "best": ledger.title(best),
        "best_tag": "ships" if result.get("met") or same else "nearest miss",
        "drop_unit": (ledger.measured(best, "drop_points") or {}).get("unit"),
        "plot": figure,
        "plotly": packed_plotly() if figure["figure"]["data"] else "",
        "candidates": [_candidate_row(f, result) for f in ledger.forms(result)],
        "data_note": ledger.data_note(result),
        "plot_note": ledger.plot_note(result),
        "skipped": dict(result.get("skipped") or {}),
        "layers": layer_table(best),
        "recipes": [_recipe(f) for f in ([baseline] if same else [baseline, best])],
        "facts": _facts(result),
        "rounds": (ledger.measured(best, "latency_ms") or {}).get("n"),
    }


def _candidate_row(form: ledger.Form, result: ledger.Result) -> dict[str, Any]:
    role = ledger.role(form, result)
    row = {key: summary.cell(ledger.measured(form, name)) for key, name in _COLUMNS.items()}
    row["speed"] = summary.cell(fmt.inverse(ledger.measured(form, "latency_ratio")))
    row["drop"]["value"] = fmt.figure(ledger.measured(form, "drop_points"))[0]  # its unit stands in the head
    row["file"]["interval"] = _smaller(ledger.measured(form, "file_ratio"))
    if ledger.title(form) == ledger.title(result["baseline"]):
        row |= {key: summary.cell(None) for key in ("drop", "agreement", "speed", "parity")}
        row["file"]["interval"] = ""
    return row | {
        "name": ledger.title(form),
        "state": "miss" if role == "best" and not result.get("met") else role,
        "refused": form.get("refused") or "",
        "split": form.get("split") or fmt.NOTHING,
        "n": ledger.samples(form),
    }


def _smaller(ratio: fmt.Numbers | None) -> str:
    if not ratio:
        return ""
    inverse = fmt.inverse(ratio)
    return f"{fmt.value(ratio)} smaller" if ratio["value"] >= 1 or not inverse else f"{fmt.value(inverse)} larger"


def _recipe(form: Mapping[str, Any]) -> dict[str, Any]:
    steps = [s for s in str(form.get("recipe") or "").split(" → ") if s]
    return {"name": form.get("name"), "steps": steps}


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = dict(result.get("machine") or {})
    rows = [(_MACHINE.get(key, str(key).replace("_", " ")), _fact(key, machine[key])) for key in _ordered(machine)]
    rows += [(str(name), str(version)) for name, version in (result.get("versions") or {}).items()]
    if words := ledger.workload(result):
        rows.append(("Workload", words))
    if fmt.is_number(result.get("seconds")):
        rows.append(("The whole search took", fmt.duration(result["seconds"])))
    return [(name, text) for name, text in rows if text]


def _ordered(machine: Mapping[str, Any]) -> list[str]:
    return [*(k for k in _MACHINE if k in machine), *(k for k in machine if k not in _MACHINE)]


def _fact(key: str, value: Any) -> str:
    if key.endswith("_bytes") and fmt.is_number(value):
        return fmt.size(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)

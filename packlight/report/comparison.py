"""One network on several runtimes, as one self-contained HTML page: a bar a file, and all numbers in a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packlight.report import format as fmt
from packlight.report.plot import packed_plotly

_HERE = Path(__file__).parent
_HIGH = 24  # pixels a bar
_COLOURS = ("#4f83cc", "#8fb3e3", "#e08a3c", "#c75146", "#6aa56a", "#9a7bc0")
COLUMNS = (
    ("quality", "quality"), ("drop_points", "drop"), ("agreement", "agrees with the Model"), ("file_bytes", "file"),
    ("latency_ms", "latency"), ("latency_ratio", "of the first"), ("throughput", "throughput"),
    ("cold_start_ms", "cold start"), ("peak_memory_bytes", "memory"),
)  # fmt: skip


def page(found: Mapping[str, Any]) -> str:
    """The page of what `Comparison.as_json()` gives."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    machine, workload = found["machine"], found["workload"]
    return environment.get_template("comparison.html").render(
        name=str(found["name"]), task=str(found["task"]), metric=str(found["metric"]), split=str(found["split"]),
        before=fmt.value(found["before"]), processor=str(machine["processor"]), batch=fmt.count(workload["batch"]),
        threads=fmt.plural(workload["threads"], "thread"), header=[title for _, title in COLUMNS],
        rows=[{"target": r["target"], "form": r["form"], "best": r["best"], "cells": cells(r)}
              for r in found["rows"] if not r["refused"]],
        refused=[r for r in found["rows"] if r["refused"]], notes=_notes(found),
        apart=[{**a, "value": fmt.value(a)} for a in _apart(found)],
        figure=figure(found), plotly=packed_plotly(),
    )  # fmt: skip


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's numbers as text, one a column."""
    measured = row["measurements"]
    rate = next((k for k in measured if k.startswith("throughput")), "throughput")
    return [fmt.value(measured.get(rate if key == "throughput" else key)) for key, _ in COLUMNS]


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """plotly's JSON: latency, a bar a file, runtimes one below the other and the forms of each side by side."""
    rows = [r for r in found["rows"] if not r["refused"]]
    targets = list(dict.fromkeys(r["target"] for r in rows))[::-1]
    forms = list(dict.fromkeys(r["form"] for r in rows))
    traces = []
    for form, colour in reversed(list(zip(forms, _COLOURS * len(forms), strict=False))):
        mine = {r["target"]: r["measurements"] for r in rows if r["form"] == form}
        there = [t for t in targets if t in mine]
        traces.append({
            "type": "bar", "orientation": "h", "name": form, "y": there, "marker": {"color": colour},
            "x": [mine[t]["latency_ms"]["value"] for t in there],
            "text": [fmt.value(mine[t]["latency_ms"]) for t in there], "textposition": "outside", "cliponaxis": False,
            "customdata": [[fmt.value(mine[t]["quality"]), fmt.value(mine[t]["file_bytes"])] for t in there],
            "hovertemplate": "%{y} " + form + ": %{text}<br>%{customdata[0]}, %{customdata[1]}<extra></extra>",
        })  # fmt: skip
    layout = {
        "margin": {"l": 24, "r": 84, "t": 40, "b": 56}, "height": 120 + _HIGH * len(rows) + 14 * len(targets),
        "barmode": "group", "bargap": 0.3, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#7a8494"},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "reversed"},
        "xaxis": {"title": {"text": "ms a call"}, "fixedrange": True, "rangemode": "tozero",
                  "gridcolor": "rgba(122,132,148,0.25)"},
        "yaxis": {"automargin": True, "type": "category", "fixedrange": True, "dtick": 1,
                  "categoryorder": "array", "categoryarray": targets},
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def _apart(found: Mapping[str, Any], most: int = 8) -> list[Mapping[str, Any]]:
    """The pairs of files of one form that agree least."""
    alike = [a for a in found["agreement"] if a["one"].partition("/")[2] == a["other"].partition("/")[2]]
    return sorted(alike, key=lambda a: a["value"])[:most]


def _notes(found: Mapping[str, Any]) -> list[str]:
    return [f"{r['target']} {r['form']}: {note}" for r in found["rows"] for note in r["notes"]]

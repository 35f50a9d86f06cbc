"""How much every layer matters, as one self-contained HTML page: a bar a layer, and all numbers in a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packlight.report import format as fmt
from packlight.report.plot import packed_plotly

_HERE = Path(__file__).parent
_HIGH = 22  # pixels a bar
_WIDE = 1000.0  # times the smallest value: where the largest is more, the axis is logarithmic


def page(found: Mapping[str, Any], name: str) -> str:
    """The page of what `Sensitivities.as_json()` gives."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rows = found["layers"]
    more = list(rows[0]["detail"]) if rows else []
    return environment.get_template("sensitivity.html").render(
        name=name, measure=str(found["measure"]), what=str(found["what"]), samples=fmt.count(found["samples"]),
        rows=[_row(r, more) for r in rows], more=[m.replace("_", " ") for m in more],
        figure=figure(found) if rows else None, plotly=packed_plotly() if rows else "",
    )  # fmt: skip


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """plotly's JSON: a bar a layer, the first layer on top."""
    rows = list(reversed(found["layers"]))
    values = [r["value"] for r in rows]
    trace = {
        "type": "bar", "orientation": "h", "x": values, "y": [r["layer"] for r in rows], "marker": {"color": "#4f83cc"},
        "text": [f"{v:.3g}" for v in values], "textposition": "outside", "cliponaxis": False,
        "customdata": [fmt.count(r["elements"]) for r in rows],
        "hovertemplate": "%{y}: %{text}<br>%{customdata} weights<extra></extra>",
    }  # fmt: skip
    layout = {
        "margin": {"l": 24, "r": 72, "t": 16, "b": 56}, "height": 100 + _HIGH * len(rows), "bargap": 0.3,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#7a8494"},
        "xaxis": {"title": {"text": str(found["measure"])}, "fixedrange": True, "gridcolor": "rgba(122,132,148,0.25)",
                  **_scale(values)},
        "yaxis": {"automargin": True, "type": "category", "fixedrange": True, "dtick": 1},
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def _scale(values: list[float]) -> dict[str, Any]:
    """Logarithmic where linear bars would leave most layers without one."""
    positive = [v for v in values if v > 0]
    if len(positive) == len(values) and max(positive) > _WIDE * min(positive):
        return {"type": "log", "dtick": 1, "exponentformat": "power"}
    return {"type": "linear", "nticks": 8}


def _row(row: Mapping[str, Any], more: list[str]) -> dict[str, Any]:
    return {
        "layer": str(row["layer"]) or "(unnamed)", "elements": fmt.count(row["elements"]),
        "value": f"{row['value']:.4g}", "more": [f"{row['detail'][m]:.4g}" if m in row["detail"] else "" for m in more],
    }  # fmt: skip

"""What pruning did, as one self-contained HTML page: sizes, widths, scores, and how much each family matters alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packlight.report import format as fmt
from packlight.report.plot import packed_plotly

_HERE = Path(__file__).parent
_SIZES = (
    ("params", "Parameters", fmt.compact), ("macs", "MACs, batch 1", fmt.compact),
    ("weight_bytes", "Weights", fmt.size),
)  # fmt: skip
_NAMES = {"before": "as it was", "after": "pruned", "control": "control: as it was, trained the same way"}
_HIGH = 26  # pixels a line of the figure


def page(found: Mapping[str, Any], name: str) -> str:
    """The page of what `Pruned.as_json()` gives; with `sensitivity`, a list of `Sensitivity.as_json()`, its figure."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    alone = found.get("sensitivity") or []
    return environment.get_template("pruning.html").render(
        name=name, cards=_cards(found), widths=_widths(found.get("widths") or []), scores=_scores(found),
        split=found.get("split"), notes=[str(n) for n in found.get("notes") or []],
        figure=figure(alone) if alone else None, plotly=packed_plotly() if alone else "",
    )  # fmt: skip


def figure(alone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """plotly's JSON: a row a family, cells coloured by the drop at each share kept."""
    shares = [f"{100 * s:g} % kept" for s in alone[0]["shares"]]
    rows = list(reversed(alone))
    drops = [[m["value"] for m in r["drop"]] for r in rows]
    texts = [[fmt.value(m) for m in r["drop"]] for r in rows]
    spans = [[fmt.interval(m) for m in r["drop"]] for r in rows]
    largest = max((d for row in drops for d in row if fmt.is_number(d)), default=0.0)
    trace = {
        "type": "heatmap", "x": shares, "y": [f"{r['name']} ({r['units']})" for r in rows], "z": drops, "text": texts,
        "customdata": spans, "texttemplate": "%{text}", "xgap": 2, "ygap": 2, "zmin": 0, "zmax": max(largest, 1e-9),
        "colorscale": [[0, "#e3ecf7"], [0.5, "#a5c2e6"], [1, "#2b5fa8"]],
        "hovertemplate": "%{y}, %{x}: drop %{text}<br>95 %: %{customdata}<extra></extra>",
        "showscale": False,
    }  # fmt: skip
    layout = {
        "margin": {"l": 24, "r": 24, "t": 40, "b": 16}, "height": 90 + _HIGH * len(rows),
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#7a8494"},
        "xaxis": {"side": "top", "showgrid": False, "fixedrange": True},
        "yaxis": {"automargin": True, "showgrid": False, "type": "category", "fixedrange": True},
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def _cards(found: Mapping[str, Any]) -> list[dict[str, str]]:
    made = []
    for key, label, write in _SIZES:
        before, after = found[key]
        share = f"{100 * after / before:.1f}{fmt.SPACE}% of {write(before)}" if before else ""
        made.append({"label": label, "after": write(after), "share": share})
    return made


def _widths(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    widest = max((r["before"] for r in rows), default=1)
    return [
        {
            "layer": str(r["layer"]) or "(unnamed)", "operator": str(r["operator"]), "before": fmt.count(r["before"]),
            "after": fmt.count(r["after"]), "left": round(100 * r["after"] / r["before"]) if r["before"] else 0,
            "whole": round(100 * r["before"] / widest, 2), "stays": round(100 * r["after"] / widest, 2),
            "cut": r["before"] != r["after"],
        }
        for r in rows
    ]  # fmt: skip


def _scores(found: Mapping[str, Any]) -> list[dict[str, str]]:
    drops = found.get("drop") or {}
    return [
        {
            "name": _NAMES.get(name, name), "value": fmt.value(m), "span": fmt.interval(m), "n": fmt.count(m.get("n")),
            "drop": fmt.value(drops[name]) if name in drops else "",
            "drop_span": fmt.interval(drops[name]) if name in drops else "",
        }
        for name, m in (found.get("quality") or {}).items()
    ]  # fmt: skip

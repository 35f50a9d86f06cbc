"""A training run's log as one self-contained HTML page: loss, learning rate, validation scores if there are any."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.report import format as fmt
from packlight.report.plot import packed_plotly

_HERE = Path(__file__).parent
_SMOOTHED = 0.04  # share of the run that the smoothed loss averages over
Row = dict[str, Any]


def page(log: str, name: str) -> str:
    """The page of a log, JSON lines as `fit` writes them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    rows = _rows(log)
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("training.html").render(
        name=name, figure=figure(rows), plotly=packed_plotly(), facts=_facts(rows)
    )


def figure(rows: Sequence[Row]) -> dict[str, Any]:
    """plotly's JSON: the loss of each step and smoothed, scores above it, the learning rate below."""
    losses = [r for r in rows if "loss" in r]
    scores = [r for r in rows if "validation" in r]
    steps, values = [r["step"] for r in losses], [r["loss"] for r in losses]
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "name": "loss of a batch", "x": steps, "y": values, "opacity": 0.35,
         "line": {"color": "#4f83cc", "width": 1}},
        {"type": "scatter", "mode": "lines", "name": "loss, smoothed", "x": steps, "y": smoothed(values),
         "line": {"color": "#2b5fa8", "width": 2}},
        {"type": "scatter", "mode": "lines", "name": "learning rate", "x": steps, "yaxis": "y2",
         "y": [r["learning_rate"] for r in losses], "line": {"color": "#8d95a3", "width": 1.5}},
    ]  # fmt: skip
    layout: dict[str, Any] = {
        "margin": {"l": 64, "r": 24, "t": 16, "b": 48}, "height": 460, "hovermode": "x unified",
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#7a8494"},
        "legend": {"orientation": "h", "y": 1.08},
        "xaxis": {"title": {"text": "step"}, "gridcolor": "#8883", "anchor": "y2"},
        "yaxis": {"title": {"text": "loss"}, "domain": [0.3, 0.68 if scores else 1.0], "gridcolor": "#8883",
                  "type": "log" if values and min(values) > 0 else "linear"},
        "yaxis2": {"title": {"text": "rate"}, "domain": [0.0, 0.22], "gridcolor": "#8883", "rangemode": "tozero"},
    }  # fmt: skip
    if scores:
        metric = str(scores[0]["metric"])
        data.append({"type": "scatter", "mode": "lines+markers", "name": f"{metric}, validation", "yaxis": "y3",
                     "x": [r["step"] for r in scores], "y": [r["validation"] for r in scores],
                     "line": {"color": "#1f9d63", "width": 2}})  # fmt: skip
        layout["yaxis3"] = {"title": {"text": metric}, "domain": [0.74, 1.0], "gridcolor": "#8883"}
    return {"data": data, "layout": layout}


def smoothed(values: Sequence[float]) -> list[float]:
    """Means over the values up to each, as many as _SMOOTHED of them all."""
    width = max(1, round(_SMOOTHED * len(values)))
    parts = (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))
    return [math.fsum(part) / len(part) for part in parts]


def _facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    losses = [r for r in rows if "loss" in r]
    scores = [float(r["validation"]) for r in rows if "validation" in r]
    last = losses[-1]
    facts = [
        (f"Steps, {last['epoch']:g} epochs", fmt.count(last["step"])),
        ("Time", fmt.duration(float(last["seconds"]))),
        ("Last loss", fmt.significant(float(last["loss"]))),
    ]
    return [*facts, ("Last score", fmt.significant(scores[-1], 4))] if scores else facts


def _rows(log: str) -> list[Row]:
    try:
        rows = [json.loads(line) for line in log.splitlines()]
        if any(not isinstance(r, dict) or not ({"loss", "validation"} & r.keys()) for r in rows):
            raise ValueError("a line is no row of a training log")
    except ValueError as error:
        raise PacklightError(f"this is no training log: {error}") from error
    if not any("loss" in r for r in rows):
        raise PacklightError("this training log holds no step")
    return rows

"""The plot of all forms as a plotly figure, and plotly's own JavaScript, packed so that the page carries it.

Both axes are better towards the lower left: latency, and the drop in quality, which is paired with the baseline on
the same samples and so compares across data splits where quality itself does not.
"""

from __future__ import annotations

import base64
import functools
import gzip
import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from packlight.report import format as fmt
from packlight.report.ledger import Form, Result, data_of, forms, measured, role, title

Span = tuple[float, float, float]  # low, value, high

X, Y = "latency_ms", "drop_points"
_LARGEST, _SMALLEST = 34, 9  # marker diameters, pixels
_FAR = 9.0  # a form is far off when its gap is this many times the spread of the rest
_MARGIN = 0.08
_LONGEST = 30  # characters of a name beside its marker
_STYLES: dict[str, dict[str, Any]] = {
    "refused": {"name": "refused", "symbol": "circle-x-open", "color": "#8d95a3", "opacity": 0.9},
    "other": {"name": "tried", "symbol": "circle", "color": "#4f83cc", "opacity": 0.75},
    "baseline": {"name": "float baseline", "symbol": "diamond", "color": "#7a8494", "opacity": 1.0},
    "best": {"name": "best", "symbol": "circle", "color": "#1f9d63", "opacity": 1.0},
}


@functools.cache
def packed_plotly() -> str:
    """plotly.js, gzipped, in base64: 2 MB in place of 4.8 MB; plotly's wheel carries no smaller bundle."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def plot(result: Result) -> dict[str, Any]:
    """The figure (plotly's JSON), the names of forms without the two numbers, and those out of the first view.

    Where the ledger has `limits`, measurement → the largest value that the budget allows, they are drawn too.
    """
    everything = forms(result)
    drawn = [f for f in everything if measured(f, X) and measured(f, Y)]
    roles = {kind: [f for f in drawn if role(f, result) == kind] for kind in _STYLES}
    kept = roles["baseline"] + roles["best"]
    windows = {key: window(*([_span(f, key) for f in fs] for fs in (drawn, kept))) for key in (X, Y)}
    outside = [f for f in drawn if any(w and not w[0] <= _span(f, k)[1] <= w[1] for k, w in windows.items())]
    lines = [_line(k, limit) for k, limit in (result.get("limits") or {}).items() if _in_reach(k, limit, drawn)]
    largest = max(map(_bytes, drawn), default=0.0) or 1.0
    return {
        "figure": {
            "data": [_trace(fs, _STYLES[kind], largest) for kind, fs in roles.items() if fs],
            "layout": _layout(windows, _drop_title(drawn)) | {"shapes": lines},
        },
        "missing": [title(f) for f in everything if f not in drawn],
        "outside": [f"{title(f)} ({fmt.value(measured(f, X))}, drop {fmt.value(measured(f, Y))})" for f in outside],
    }


def window(spans: Sequence[Span], kept: Sequence[Span] = ()) -> tuple[float, float] | None:
    """An axis range that leaves out forms so far above the rest that nothing else could be told apart.

    spans: every form's. None where all fit. Two forms, half of all and those in `kept` are always inside.
    """
    ordered = sorted(spans, key=lambda s: s[1])
    highest = max((s[2] for s in kept), default=-math.inf)
    for i in range(max(2, (len(ordered) + 1) // 2), len(ordered)):
        low, high = min(s[0] for s in ordered[:i]), max(s[2] for s in ordered[:i])
        gap = min(s[0] for s in ordered[i:]) - high
        if gap > _FAR * (high - low) > 0 and highest <= high:
            room = _MARGIN * (high - low)
            return low - room, high + room
    return None


def _trace(drawn: Sequence[Form], style: Mapping[str, Any], largest: float) -> dict[str, Any]:
    color = style["color"]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": style["name"],
        "x": [_span(f, X)[1] for f in drawn],
        "y": [_span(f, Y)[1] for f in drawn],
        "error_x": _errors(drawn, X, color),
        "error_y": _errors(drawn, Y, color),
        "text": [_plain(_short(title(f))) for f in drawn],
        "textposition": "top center",
        "hovertext": [_hover(f) for f in drawn],
        "hoverinfo": "text",
        "cliponaxis": True,
        "marker": {
            "symbol": style["symbol"],
            "color": color,
            "opacity": style["opacity"],
            "size": [_bytes(f) for f in drawn],
            "sizemode": "area",
            "sizeref": 2 * largest / _LARGEST**2,
            "sizemin": _SMALLEST / 2,
            "line": {"width": 1.5, "color": color},
        },
    }


def _drop_title(drawn: Sequence[Form]) -> str:
    unit = next((m.get("unit") for f in drawn if (m := measured(f, Y))), "")
    return f"Quality drop ({unit})" if unit else "Quality drop"


def _layout(windows: Mapping[str, tuple[float, float] | None], drop: str) -> dict[str, Any]:
    axis = {"automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 4, "nticks": 8, "gridwidth": 1}
    ranges = {key: {"range": list(w)} if w else {} for key, w in windows.items()}
    return {
        "autosize": True,
        "height": 440,
        "margin": {"l": 56, "r": 20, "t": 12, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif", "size": 13},
        "xaxis": {**axis, **ranges[X], "title": {"text": "Median latency (ms)", "standoff": 12}},
        "yaxis": {**axis, **ranges[Y], "title": {"text": drop, "standoff": 12}, "zeroline": True},
        "showlegend": True,
        "legend": {
            "orientation": "h", "traceorder": "reversed", "x": 0, "y": 1.02, "yanchor": "bottom",
            "itemsizing": "constant",
        },
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#1d2530", "bordercolor": "#1d2530", "font": {"color": "#ffffff"}},
    }  # fmt: skip


def _line(key: str, limit: float) -> dict[str, Any]:
    along, across = ("x", "y") if key == Y else ("y", "x")
    return {
        "type": "line",
        f"{along}ref": "paper", f"{along}0": 0, f"{along}1": 1,
        f"{across}0": limit, f"{across}1": limit,
        "line": {"color": "#c2703d", "width": 1.5, "dash": "dot"},
        "label": {"text": "budget", "textposition": "end", "font": {"color": "#c2703d", "size": 12}},
    }  # fmt: skip


def _in_reach(key: str, limit: object, drawn: Sequence[Form]) -> bool:
    """Whether showing a limit leaves the forms apart."""
    if key not in (X, Y) or not fmt.is_number(limit) or not drawn:
        return False
    spans = [_span(f, key) for f in drawn]
    low, high = min(s[0] for s in spans), max(s[2] for s in spans)
    return low - (high - low) < limit < high + _FAR * (high - low)


def _errors(drawn: Sequence[Form], key: str, color: str) -> dict[str, Any]:
    spans = [_span(f, key) for f in drawn]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for _, value, high in spans],
        "arrayminus": [value - low for low, value, _ in spans],
        "color": color,
        "thickness": 1.2,
        "width": 4,
    }


def _hover(form: Form) -> str:
    lines = [f"<b>{_wrapped(title(form))}</b>"]
    named = ((X, "latency"), (Y, "drop"), ("quality", "quality"), ("file_bytes", "file"))
    for key, word in named:
        if found := measured(form, key):
            between = fmt.interval(found)
            lines.append(f"{word}  {_plain(fmt.value(found))}" + (f"  [{_plain(between)}]" if between else ""))
    if form.get("split"):
        lines.append("on " + _plain(data_of(form, Y)))
    if form.get("refused"):
        lines.append("refused: " + _wrapped(form["refused"]))
    return "<br>".join(lines)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _wrapped(text: object) -> str:
    return "<br>".join(_plain(line) for line in textwrap.wrap(str(text), 64))


def _plain(text: object) -> str:
    """Text that plotly, which reads some HTML in labels, shows letter by letter."""
    return html.escape(str(text), quote=False)


def _bytes(form: Form) -> float:
    found = measured(form, "file_bytes")
    return float(found["value"]) if found else 0.0


def _span(form: Form, key: str) -> Span:
    """Low, value and high of a measurement that the form has."""
    found = measured(form, key) or {"value": 0.0}
    value = float(found["value"])
    low, high = found.get("low"), found.get("high")
    return (
        min(value, low) if fmt.is_number(low) else value,
        value,
        max(value, high) if fmt.is_number(high) else value,
    )

"""Every form of every network as one line of dots: how much smaller, how much faster, what it costs in accuracy.

An SVG that comes out the same bytes for the same ledger.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.forms import FLOAT, OURS
from benchmarks.ledger import Rows
from packlight.errors import PacklightError
from packlight.files import write_text

_GREEN, _GREY = "#0b6e4f", "#6b7280"
_COLUMNS = {"times smaller": math.inf, "times faster, batch 1": math.inf, "accuracy drop, points": 3.0}
Point = tuple[float, float, float] | None  # low, value, high
_STYLE: dict[Any, Any] = {
    "backend": "svg", "svg.hashsalt": "packlight", "svg.fonttype": "none", "font.size": 8, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.grid": True,
    "grid.linewidth": 0.4, "grid.color": "#d7dae0", "ytick.left": False,
}  # fmt: skip


def draw(found: dict[str, Rows], path: Path) -> Path:
    """Write the plot of every case that has accuracies, a row of panels each, smallest files first.

    Bars are 95 % intervals. A drop beyond three points stands as an arrow at the edge.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        raise PacklightError("plots need matplotlib; pip install 'packlight[dev]'") from None
    shown = {name: forms for name, rows in found.items() if (forms := _by_size(rows))}
    heights = [len(forms) + 3 for forms in shown.values()] or [1]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            len(heights), len(_COLUMNS), figsize=(9, 0.2 * sum(heights)), height_ratios=heights,
            sharey="row", squeeze=False, layout="constrained",
        )  # fmt: skip
        for row, (name, forms) in zip(axes, shown.items(), strict=False):
            colours = [_GREEN if f == FLOAT or f.startswith(OURS) else _GREY for f in forms]
            columns = zip(*(_points(found[name], form) for form in forms), strict=True)
            for axis, points, (title, most) in zip(row, columns, _COLUMNS.items(), strict=True):
                _panel(axis, points, colours, most)
                axis.set_xlabel(title)
            row[0].set_yticks(range(len(forms)), forms)
            row[0].set_title(name, loc="left", fontweight="bold")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    write_text(path, text.getvalue())
    return path


def _by_size(rows: Rows) -> list[str]:
    judged = (form for form, what, _ in rows if what == "drop_points")
    return sorted(judged, key=lambda form: (-(rows[form, "file_bytes", None].value or 0.0), form))


def _points(rows: Rows, form: str) -> Iterator[Point]:
    """A form's numbers in the order of the columns, None where there is none."""
    for what, batch in (("times_smaller", None), ("latency_ratio", 1), ("drop_points", None)):
        row = rows.get((form, what, batch))
        if row is None or row.value is None or row.low is None or row.high is None:
            yield None
        elif what == "latency_ratio":
            yield 1 / row.high, 1 / row.value, 1 / row.low
        else:
            yield row.low, row.value, row.high


def _panel(axis: Any, points: Sequence[Point], colours: Sequence[str], most: float) -> None:
    """Dots with intervals, one above the other; what lies beyond `most` is an arrow at the edge."""
    for y, (point, colour) in enumerate(zip(points, colours, strict=True)):
        if point is not None:
            low, value, high = (min(x, most) for x in point)
            axis.plot([low, high], [y, y], linewidth=1.2, color=colour)
            axis.plot(value, y, ">" if point[1] > most else "o", markersize=4, color=colour)


def draw_growth(rows: Rows, what: str, path: Path) -> Path:
    """Write the plot of seconds over blocks, with intervals; forms are called "kind, n blocks"."""
    from matplotlib import pyplot as plt

    series: dict[str, list[tuple[int, float, float, float]]] = {}
    for (form, named, _), row in rows.items():
        kind, _, blocks = form.partition(", ")
        if named == what and blocks.endswith(" blocks") and row.value is not None:
            assert row.low is not None
            assert row.high is not None
            series.setdefault(kind, []).append((int(blocks.split()[0]), row.low, row.value, row.high))
    with plt.rc_context(_STYLE | {"axes.spines.left": True}):
        figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
        for (kind, points), colour in zip(series.items(), (_GREEN, _GREY), strict=False):
            at, low, middle, high = zip(*sorted(points), strict=True)
            axis.plot(at, middle, marker="o", markersize=3, linewidth=1.2, color=colour)
            axis.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.annotate(kind, (at[-1], middle[-1]), (6, 0), textcoords="offset points", color=colour, va="center")
        axis.set_xlabel("blocks of the network")
        axis.set_ylabel("seconds")
        axis.set_xlim(0, 1.2 * max(p[0] for points in series.values() for p in points))
        axis.set_ylim(0)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    write_text(path, text.getvalue())
    return path

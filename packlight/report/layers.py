"""The per-layer table of a form: what each layer costs, and which stay in float and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from packlight.report import format as fmt

_KEPT = " stays in float: "
_SHORT = 30
_FLOAT_BITS = 16


def layer_table(form: Mapping[str, Any]) -> dict[str, Any]:
    """Rows, totals and the share of the work at each bit width. Float layers are marked where others are not."""
    rows = [r for r in form.get("layers") or [] if isinstance(r, Mapping)]
    notes = [str(n) for n in form.get("notes") or []]
    macs = [_amount(r, "macs") for r in rows]
    total = sum(macs)
    mixed = any(0 < _amount(r, "bits") < _FLOAT_BITS for r in rows)
    return {
        "rows": [_row(r, total, max(macs, default=0.0), mixed, notes) for r in rows],
        "marked": mixed and any(_amount(r, "bits") >= _FLOAT_BITS for r in rows),
        "short": len(rows) <= _SHORT,
        "params": fmt.count(sum(_amount(r, "params") for r in rows)),
        "macs": fmt.compact(total),
        "bytes": fmt.count(sum(_amount(r, "weight_bytes") for r in rows)),
        "work": _work(rows, total),
        "notes": [n for n in notes if _KEPT not in n],
    }


def why_float(layer: str, notes: Sequence[str]) -> str:
    """The reason that a form's notes give for a layer that stays in float; "" where they give none."""
    start = layer + _KEPT
    return next((n[len(start) :] for n in notes if n.startswith(start)), "")


def _row(row: Mapping[str, Any], total: float, largest: float, mixed: bool, notes: Sequence[str]) -> dict[str, Any]:
    layer, bits = str(row.get("layer", "")), _amount(row, "bits")
    macs = _amount(row, "macs")
    in_float = mixed and bits >= _FLOAT_BITS
    return {
        "layer": layer or "(unnamed)",
        "operator": str(row.get("operator", "")),
        "output": " × ".join(str(n) for n in row.get("output") or []),
        "params": fmt.count(row.get("params")),
        "macs": fmt.compact(row.get("macs")),
        "share": _percent(100 * macs / total) if macs else "",
        "bar": round(100 * macs / largest, 1) if largest else 0.0,
        "bytes": fmt.count(row.get("weight_bytes")),
        "bits": f"{bits:.3g}" if bits else fmt.NOTHING,
        "float": in_float,
        "why": why_float(layer, notes) if in_float else "",
    }


def _work(rows: Sequence[Mapping[str, Any]], total: float) -> str:
    """ "99.8 % of the MACs in 8 bits, 0.2 % in 32 bits"."""
    by_bits: dict[float, float] = defaultdict(float)
    for row in rows:
        by_bits[_amount(row, "bits")] += _amount(row, "macs")
    if not total:
        return ""
    parts = [(bits, 100 * macs / total) for bits, macs in sorted(by_bits.items()) if bits and macs]
    if len(parts) == 1:
        return f"all MACs in {parts[0][0]:.3g}{fmt.SPACE}bits"
    return ", ".join(
        f"{_percent(p)}{' of the MACs' if i == 0 else ''} in {b:.3g}{fmt.SPACE}bits" for i, (b, p) in enumerate(parts)
    )


def _percent(share: float) -> str:
    number = "< 0.1" if share < 0.1 else "> 99.9" if share > 99.9 else fmt.fixed(share, 1)
    return number + fmt.SPACE + "%"


def _amount(row: Mapping[str, Any], key: str) -> float:
    number = row.get(key)
    return number if fmt.is_number(number) else 0.0

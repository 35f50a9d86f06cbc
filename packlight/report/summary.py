"""What the top of the page says: the verdict, the headline numbers, and what came in beside what came out."""

from __future__ import annotations

from typing import Any

from packlight.report import format as fmt
from packlight.report.ledger import Form, Result, data_of, measured, ships_baseline, title, workload

# measurement, label, what it is, words for less and for more
_COMPARED = (
    ("latency_ms", "Latency, median", "one call", "faster", "slower"),
    ("latency_p95_ms", "Latency, 95th percentile", "19 of 20 calls are faster", "lower", "higher"),
    ("cold_start_ms", "Cold start", "open the file, answer once; one run", "shorter", "longer"),
    ("peak_memory_bytes", "Peak memory", "what opening and running adds to a process; one run", "less", "more"),
    ("file_bytes", "File size", "as it ships", "smaller", "larger"),
)

UNCLEAR = "no clear difference"


def verdict(result: Result) -> dict[str, str]:
    """tone: good, fair or bad. title, and one or two sentences that say what ships and why."""
    best = title(result["best"])
    limited = "<" in str(result.get("budget", "<"))
    reason = str(result.get("reason") or "")
    if not result.get("met"):
        same = "Nothing tried came nearer; the float file ships."
        ships = same if ships_baseline(result) else f"The nearest miss is {best}."
        return {"tone": "bad", "title": "Budget not met", "ships": ships, "reason": reason}
    ships = "Nothing tried was better; the float file ships." if ships_baseline(result) else f"{best} ships."
    if not limited:
        return {"tone": "good", "title": "No limit was set", "ships": ships, "reason": ""}
    if result.get("proven"):
        reason = "Every limit holds even at the bad end of its 95\u00a0% interval."
        return {"tone": "good", "title": "Budget met and proven", "ships": ships, "reason": reason}
    return {"tone": "fair", "title": "Budget met, not proven", "ships": ships, "reason": reason}


def cards(result: Result) -> list[dict[str, Any]]:
    """The big numbers. Where the baseline itself ships there is nothing to compare: its own numbers."""
    before, after = result["baseline"], result["best"]
    if ships_baseline(result):
        named = (("file_bytes", "File size"), ("latency_ms", "Latency, median"), ("quality", "Quality"))
        return [
            _card(label, *fmt.figure(measured(before, key)), fmt.interval(measured(before, key)), _context(result, key))
            for key, label in named
            if measured(before, key)
        ]
    made = [_file_card(before, after), _speed_card(result), _drop_card(before, after), _agreement_card(after)]
    return [card for card in made if card]


def comparison(result: Result) -> list[dict[str, Any]]:
    """Rows of the table: label, what it is, cells before and after, the change and whether that is good."""
    before, after = result["baseline"], result["best"]
    rows = [_quality_row(before, after)] + ([] if ships_baseline(result) else [_agreement_row(before, after)])
    for key, label, about, less, more in _COMPARED:
        if measured(before, key) or measured(after, key):
            change = _change(measured(before, key), measured(after, key), less, more)
            if key == "latency_ms":
                change |= _speed_change(after)
            if key == "file_bytes" and "×" in change["change"]:
                change["tone"] = "better" if "smaller" in change["change"] else "worse"
            rows.append({"label": label, "about": about, **_cells(before, after, key), **change})
    rows.extend(_throughput_rows(result))
    return [row for row in rows if row["before"]["value"] != fmt.NOTHING or row["after"]["value"] != fmt.NOTHING]


def cell(found: fmt.Numbers | None) -> dict[str, str]:
    """value, and under it the interval or how often it was observed."""
    if not found:
        return {"value": fmt.NOTHING, "interval": ""}
    return {"value": fmt.value(found), "interval": fmt.interval(found)}


def speed_words(speed: fmt.Numbers) -> str:
    """What a speed says about a file, given its interval: "faster", "slower" or "no clear difference"."""
    low, high = speed.get("low"), speed.get("high")
    if fmt.is_number(low) and fmt.is_number(high) and low <= 1 <= high:
        return UNCLEAR
    return "faster" if speed["value"] >= 1 else "slower"


def drop_words(drop: fmt.Numbers) -> str:
    """What a drop says, given its interval: "no clear difference", "worse" or "better"."""
    low, high = drop.get("low"), drop.get("high")
    if fmt.is_number(low) and fmt.is_number(high) and low <= 0 <= high:
        return UNCLEAR
    return "worse" if drop["value"] > 0 else "better"


def _card(label: str, number: str, unit: str, between: str, *lines: str) -> dict[str, Any]:
    return {"label": label, "number": number, "unit": unit, "interval": between, "lines": [x for x in lines if x]}


def _file_card(before: Form, after: Form) -> dict[str, Any] | None:
    ratio = measured(after, "file_ratio")
    if not ratio:
        return None
    smaller = ratio["value"] >= 1
    shown = ratio if smaller else fmt.inverse(ratio)
    number, _ = fmt.figure(shown)
    return _card("File size", number, "smaller" if smaller else "larger", "", _arrow(before, after, "file_bytes"))


def _speed_card(result: Result) -> dict[str, Any] | None:
    before, after = result["baseline"], result["best"]
    speed = _speed(after)
    if not speed:
        return None
    shown, word = speed
    lines = (UNCLEAR if word == "as fast" else "", _arrow(before, after, "latency_ms"), workload(result))
    return _card("Speed", fmt.value(shown), word, fmt.interval(shown), *lines)


def _drop_card(before: Form, after: Form) -> dict[str, Any] | None:
    drop = measured(after, "drop_points")
    if not drop:
        return None
    words = {"worse": "", "better": "better than the float file"}.get(drop_words(drop), UNCLEAR)
    lines = (words, _arrow(before, after, "quality"), data_of(after))
    return _card("Quality drop", *fmt.figure(drop), fmt.interval(drop), *lines)


def _agreement_card(after: Form) -> dict[str, Any] | None:
    found = measured(after, "agreement")
    if not found:
        return None
    return _card(
        "Agreement", *fmt.figure(found), fmt.interval(found), "same answers as the float file",
        data_of(after, "agreement"),
    )  # fmt: skip


def _context(result: Result, key: str) -> str:
    if key == "quality":
        return data_of(result["baseline"])
    return workload(result) if key == "latency_ms" else "the float baseline"


def _arrow(before: Form, after: Form, key: str) -> str:
    one, other = measured(before, key), measured(after, key)
    return f"{fmt.value(one)} → {fmt.value(other)}" if one and other else ""


def _cells(before: Form, after: Form, key: str) -> dict[str, dict[str, str]]:
    return {"before": cell(measured(before, key)), "after": cell(measured(after, key))}


def _quality_row(before: Form, after: Form) -> dict[str, Any]:
    row = {"label": "Quality", "about": data_of(after), **_cells(before, after, "quality")}
    if before.get("split") != after.get("split"):
        row["about"] = f"in: {data_of(before)}; out: {data_of(after)}"
    drop = measured(after, "drop_points")
    if not drop:
        return row | {"change": "", "interval": "", "tone": ""}
    amount = {**drop, "value": abs(drop["value"])}
    text = f"{fmt.value(amount)} {'worse' if drop['value'] > 0 else 'better'}" if drop["value"] else "no change"
    between = fmt.interval(drop)
    tone = {"worse": "worse", "better": "better"}.get(drop_words(drop), "")
    return row | {"change": text, "interval": f"drop {between}" if between else "", "tone": tone}


def _agreement_row(before: Form, after: Form) -> dict[str, Any]:
    cells = {"before": {"value": fmt.NOTHING, "interval": ""}, "after": cell(measured(after, "agreement"))}
    about = "same answers as the float file"
    return {"label": "Agreement", "about": about, **cells, "change": "", "interval": "", "tone": ""}


def _change(before: fmt.Numbers | None, after: fmt.Numbers | None, less: str, more: str) -> dict[str, str]:
    """A ratio of two values; without a tone, since nothing says how sure it is."""
    plain = {"change": "", "interval": "", "tone": ""}
    if not before or not after or before["value"] <= 0 or after["value"] <= 0:
        return plain
    ratio = before["value"] / after["value"]
    text = fmt.fixed(max(ratio, 1 / ratio), 2)
    if text == "1.00":
        return plain | {"change": "the same"}
    return plain | {"change": f"{text}× {less if ratio > 1 else more}"}


def _speed_change(after: Form) -> dict[str, str]:
    speed = _speed(after)
    if not speed:
        return {}
    shown, word = speed
    tone = {"faster": "better", "slower": "worse"}.get(word, "")
    return {"change": f"{fmt.value(shown)} {word}", "interval": fmt.interval(shown), "tone": tone}


def _speed(after: Form) -> tuple[fmt.Numbers, str] | None:
    """The ratio to show and its word: times faster, times slower, or, where the interval holds 1, as fast."""
    ratio = measured(after, "latency_ratio")
    speed = fmt.inverse(ratio)
    if not ratio or not speed:
        return None
    words = speed_words(speed)
    return (ratio, words) if words == "slower" else (speed, "as fast" if words == UNCLEAR else words)


def _throughput_rows(result: Result) -> list[dict[str, Any]]:
    rates = result.get("throughput") or {}
    before, after = (rates.get(title(result[k])) or {} for k in ("baseline", "best"))
    rows = []
    for threads in sorted({*before, *after}, key=lambda n: (len(str(n)), str(n))):
        one, other = before.get(threads), after.get(threads)
        one, other = (one if fmt.known(one) else None), (other if fmt.known(other) else None)
        about = f"back-to-back calls, {threads}{fmt.SPACE}{'thread' if str(threads) == '1' else 'threads'}"
        change = _change(other, one, "more", "less")
        rows.append({"label": "Throughput", "about": about, "before": cell(one), "after": cell(other), **change})
    return rows

"""Numbers as people read them: pure functions from values to text.

A measurement is the ledger's {value, unit, n, low, high}. One with an interval is written to the place where
the interval's width has its second digit: 0.846 [0.771, 0.849], but 5.2 [1.4, 5.2]. Percent, points and
ratios have two decimals, and more only where the interval is too narrow for these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

SPACE = "\u00a0"  # between a number and its unit, so that no line breaks there
NOTHING = "–"
_SCALES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TWO_DECIMALS = ("%", "points", "×")
_MOST_PLACES = 6
_TINY = 1e-4

Numbers = Mapping[str, Any]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def known(measurement: object) -> TypeGuard[Numbers]:
    """Whether there is a measurement with a value that can be written."""
    return isinstance(measurement, Mapping) and is_number(measurement.get("value"))


def fixed(value: float, places: int) -> str:
    """1234.5, 1 → "1,234.5"; a true minus sign, and no minus before zero."""
    text = f"{value:,.{places}f}"
    if text.startswith("-"):
        text = "−" + text[1:] if text.strip("-0.,") else text[1:]
    return text


def significant(value: float, digits: int = 3) -> str:
    """To a number of significant digits, whole numbers kept whole: 0.8459 → "0.846", 12345 → "12,345"."""
    return fixed(value, _significant_places(value, digits))


def size(count: float) -> str:
    """Bytes in decimal units: 316530 → "316.5 kB"."""
    scale, unit = _size_scale(count)
    return fixed(count / scale, _significant_places(count / scale, 4) if scale > 1 else 0) + SPACE + unit


def count(value: object) -> str:
    """A whole number with thousands separators: 272474 → "272,474"."""
    return fixed(value, 0) if is_number(value) else NOTHING


def compact(value: object) -> str:
    """A large count in three digits: 1806336 → "1.81 M"."""
    if not is_number(value):
        return NOTHING
    for scale, letter in _COUNTS:
        if abs(value) >= scale:
            return significant(value / scale) + SPACE + letter
    return fixed(value, 0)


def duration(seconds: float) -> str:
    """Seconds as "8.4 s", "1 min 41 s" or "2 h 5 min"."""
    if round(seconds) < 60:
        return fixed(seconds, 1) + SPACE + "s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def plural(number: object, word: str) -> str:
    """1, "thread" → "1 thread"; 2 → "2 threads"."""
    return f"{count(number)}{SPACE}{word}{'' if number == 1 else 's'}"


def figure(measurement: object) -> tuple[str, str]:
    """A measurement's number and its unit, apart: ("0.846", "ms"), ("3.46×", "")."""
    if not known(measurement):
        return NOTHING, ""
    scale, unit = _scale(measurement)
    if 0 < abs(measurement["value"]) < _TINY and not _has_interval(measurement):
        return f"{measurement['value']:.1e}".replace("-", "−"), unit
    number = fixed(measurement["value"] / scale, _places(measurement))
    return (number + unit, "") if unit == "×" else (number, unit)


def value(measurement: object) -> str:
    """A measurement's number with its unit: "0.846 ms", "3.46×"."""
    number, unit = figure(measurement)
    return number + (SPACE + unit if unit else "")


def interval(measurement: object) -> str:
    """The 95 % interval, "0.771 to 0.849", in the unit of `value`; "" where there is none."""
    if not known(measurement) or not _has_interval(measurement):
        return ""
    scale, unit = _scale(measurement)
    places = _places(measurement)
    sign = unit if unit == "×" else ""
    return f"{fixed(measurement['low'] / scale, places)}{sign} to {fixed(measurement['high'] / scale, places)}{sign}"


def inverse(measurement: object) -> Numbers | None:
    """1 / m with its interval turned round: a latency ratio as a speed. None where there is no positive one."""
    if not known(measurement) or measurement["value"] <= 0:
        return None
    low, high = measurement.get("low"), measurement.get("high")
    fast = 1 / low if is_number(low) and low > 0 else None
    slow = 1 / high if is_number(high) and high > 0 else None
    return {**measurement, "value": 1 / measurement["value"], "low": slow, "high": fast}


def _has_interval(measurement: Numbers) -> bool:
    low, high = measurement.get("low"), measurement.get("high")
    return is_number(low) and is_number(high) and low != high


def _scale(measurement: Numbers) -> tuple[float, str]:
    unit = str(measurement.get("unit", ""))
    if unit == "bytes":
        return _size_scale(measurement["value"])
    return 1.0, "" if unit == "relative" else unit


def _size_scale(number: float) -> tuple[float, str]:
    # 999,950 bytes would round to "1,000.0 kB"
    return next((s for s in _SCALES if abs(number) >= 0.99995 * s[0]), _SCALES[-1])


def _places(measurement: Numbers) -> int:
    scale, unit = _scale(measurement)
    if unit == "B":
        return 0
    if _has_interval(measurement):
        first_digit = -math.floor(math.log10(abs(measurement["high"] - measurement["low"]) / scale))
        wanted = max(2, first_digit) if unit in _TWO_DECIMALS else max(0, first_digit + 1)
        return min(_MOST_PLACES, wanted)
    if unit in _TWO_DECIMALS:
        return 2
    return _significant_places(measurement["value"] / scale, 4 if measurement.get("unit") == "bytes" else 3)


def _significant_places(number: float, digits: int) -> int:
    rounded = float(f"{number:.{digits}g}")  # 9.996 is 10.0 in three digits, not 10.00
    return 0 if rounded == 0 else max(0, digits - 1 - math.floor(math.log10(abs(rounded))))

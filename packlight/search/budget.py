"""Budgets: limits on measurements, and what to minimise among the forms that keep them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from packlight.errors import PacklightError
from packlight.measure import Measurement

# What users write → the measurement it limits.
MEASURED = {
    "drop": "drop_points", "latency": "latency_ms", "size": "file_bytes", "file": "file_bytes",
    "download": "file_bytes", "memory": "peak_memory_bytes", "cold_start": "cold_start_ms",
}  # fmt: skip
_UNITS: dict[str, dict[str, float]] = {
    "drop_points": {"points": 1.0, "point": 1.0, "": 1.0},
    "latency_ms": {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3},
    "cold_start_ms": {"ms": 1.0, "s": 1e3},
    "file_bytes": {"b": 1.0, "bytes": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2},
    "peak_memory_bytes": {"b": 1.0, "bytes": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2},
}
_LIMIT = re.compile(r"([a-z_]+)\s*<=?\s*([0-9.]+(?:e-?[0-9]+)?)\s*([a-zµ%]*)\Z")
_GOAL = re.compile(r"([a-z_]+)\s*:\s*min\Z")


@dataclass(frozen=True)
class Limit:
    """measurement <= value. relative: value is in percent of the baseline's measurement (for a drop, of the
    baseline's quality); otherwise in the measurement's own unit."""

    name: str
    value: float
    relative: bool
    text: str

    @property
    def measurement(self) -> str:
        return MEASURED[self.name]

    def bound(self, baseline: Mapping[str, Measurement]) -> float:
        """The limit in the measurement's own unit."""
        if not self.relative:
            return self.value
        whole = baseline["quality" if self.name == "drop" else self.measurement].value
        return self.value / 100 * abs(whole)


@dataclass(frozen=True)
class Verdict:
    """met: every estimate is inside its limit. proven: so is every interval's bad end. reason: one line; for
    a limit met but not proven, about how many samples a proof would take."""

    met: bool
    proven: bool
    reason: str
    excess: float


@dataclass(frozen=True)
class Budget:
    """limits, and the measurement to make small among forms that keep them."""

    limits: tuple[Limit, ...]
    minimise: str

    @staticmethod
    def parse(text: str) -> Budget:
        """A budget such as "drop<=1%, latency:min" or "drop<=0.3points, size<=500kB".

        `%` is relative to the baseline, `points` absolute; kB is 1000 bytes. Without a goal: latency:min.
        """
        limits, goals = [], []
        for part in filter(None, (p.strip() for p in text.replace(";", ",").split(","))):
            lowered = part.lower()
            if goal := _GOAL.match(lowered):
                goals.append(_known(goal[1], part))
            elif limit := _LIMIT.match(lowered):
                name, number, unit = limit.groups()
                limits.append(_limit(_known(name, part), number, unit, part))
            else:
                raise PacklightError(
                    f"budget {part!r} is neither a limit like 'drop<=1%' nor a goal like 'latency:min'"
                )
        if len(goals) > 1:
            raise PacklightError(f"budget {text!r} has {len(goals)} goals; give one")
        return Budget(tuple(limits), MEASURED[goals[0]] if goals else "latency_ms")

    def judge(self, form: Mapping[str, Measurement], baseline: Mapping[str, Measurement]) -> Verdict:
        """Whether a form's measurements keep every limit."""
        met, proven, reasons, excess = True, True, [], 0.0
        for limit in self.limits:
            found, bound = form[limit.measurement], limit.bound(baseline)
            inside = found.value <= bound
            met, proven = met and inside, proven and found.high <= bound
            if not inside:
                reasons.append(f"{limit.text}: measured {found}, allowed {bound:.4g}")
                excess = max(excess, (found.value - bound) / max(abs(bound), 1e-9))
            elif found.high > bound:
                reasons.append(f"{limit.text}: met but not proven, {found} against {bound:.4g}{_samples(found, bound)}")
        return Verdict(met, proven, "; ".join(reasons) or "all limits proven", excess)

    def __str__(self) -> str:
        goal = next(k for k, v in MEASURED.items() if v == self.minimise)
        return ", ".join([*(x.text for x in self.limits), f"{goal}:min"])


def _known(name: str, part: str) -> str:
    if name not in MEASURED:
        raise PacklightError(f"budget {part!r}: {name!r} is not measured; choose one of {', '.join(MEASURED)}")
    return name


def _limit(name: str, number: str, unit: str, part: str) -> Limit:
    try:
        value = float(number)
    except ValueError:
        raise PacklightError(f"budget {part!r}: {number!r} is not a number") from None
    if unit == "%":
        return Limit(name, value, True, part)
    scale = _UNITS[MEASURED[name]].get(unit)
    if scale is None:
        allowed = ", ".join(u for u in _UNITS[MEASURED[name]] if u)
        raise PacklightError(f"budget {part!r}: unit {unit or 'missing'!r}; use % or one of {allowed}")
    return Limit(name, value * scale, False, part)


def _samples(found: Measurement, bound: float) -> str:
    """About how many samples would shrink the interval enough: its width falls with the square root of n."""
    slack = bound - found.value
    if found.n < 2 or slack <= 0:
        return ""
    needed = found.n * ((found.high - found.value) / slack) ** 2
    return f"; about {math.ceil(needed / 100) * 100:,} samples would prove it, {found.n:,} were there"

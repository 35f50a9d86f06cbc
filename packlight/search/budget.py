"""Budgets: limits on measurements, what to minimise among the forms that keep them, and a limit on time."""

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
_BYTES = {"b": 1.0, "bytes": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3}
_MILLISECONDS = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}
_UNITS: dict[str, dict[str, float]] = {
    "drop_points": {"points": 1.0, "point": 1.0},
    "latency_ms": _MILLISECONDS, "cold_start_ms": _MILLISECONDS,
    "file_bytes": _BYTES, "peak_memory_bytes": _BYTES,
}  # fmt: skip
_LIMIT = re.compile(r"([a-z_]+)\s*(?:<=|<|≤)\s*(\d+\.?\d*|\.\d+)\s*([a-zµ%]*)\Z")
_GOAL = re.compile(r"([a-z_]+)\s*:\s*min\Z")
_TIME = re.compile(r"(\d+\.?\d*|\.\d+)\s*([smh]?)\Z")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_ALLOWED = f"give limits and one goal, e.g. 'drop<=1%, latency:min', on {', '.join(MEASURED)}"


@dataclass(frozen=True)
class Limit:
    """measurement <= value. relative: value is in percent of the baseline's measurement (for a drop, of the
    baseline's quality); otherwise in the measurement's own unit. text: as the user wrote it."""

    name: str
    value: float
    relative: bool
    text: str

    @property
    def measurement(self) -> str:
        """What is looked at. A relative latency is the ratio, which was measured in one run with the baseline."""
        return "latency_ratio" if self.relative and self.name == "latency" else MEASURED[self.name]

    def bound(self, baseline: Mapping[str, Measurement]) -> float:
        """The limit in the measurement's own unit."""
        if not self.relative:
            return self.value
        whole = baseline["quality" if self.name == "drop" else self.measurement].value
        return self.value / 100 * abs(whole)


@dataclass(frozen=True)
class Verdict:
    """met: every estimate is inside its limit. proven: so is every interval's bad end. reason: one line; for
    a limit met but not proven, about how many samples a proof would take. excess: by how much the worst limit is
    missed, relative to it; 0 when met."""

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
        for part in filter(None, (p.strip() for p in re.split("[,;]", text))):
            lowered = part.lower()
            if goal := _GOAL.match(lowered):
                goals.append(_known(goal[1], part))
            elif limit := _LIMIT.match(lowered):
                name, number, unit = limit.groups()
                limits.append(_limit(_known(name, part), float(number), unit, part))
            else:
                raise PacklightError(f"budget {part!r} is neither a limit nor a goal; {_ALLOWED}")
        if len(goals) > 1:
            raise PacklightError(f"budget {text!r} has {len(goals)} goals; give one")
        if not limits and not goals:
            raise PacklightError(f"the budget is empty; {_ALLOWED}")
        return Budget(tuple(limits), MEASURED[goals[0]] if goals else "latency_ms")

    def judge(self, form: Mapping[str, Measurement], baseline: Mapping[str, Measurement]) -> Verdict:
        """Whether a form's measurements keep every limit."""
        met, proven, reasons, excess = True, True, [], 0.0
        for limit in self.limits:
            found, bound = form[limit.measurement], limit.bound(baseline)
            allowed = Measurement.exact(bound, found.unit)
            inside = found.value <= bound
            met, proven = met and inside, proven and inside and found.high <= bound
            if not inside:
                reasons.append(f"{limit.text}: measured {found}, allowed {allowed}")
                excess = max(excess, (found.value - bound) / max(abs(bound), 1e-9))
            elif found.high > bound:
                proof = _samples(limit, found, bound)
                reasons.append(f"{limit.text}: met but not proven, {found} against {allowed}{proof}")
        well = "all limits proven" if self.limits else "no limit set"
        return Verdict(met, proven, "; ".join(reasons) or well, excess)

    def __str__(self) -> str:
        goal = next(k for k, v in MEASURED.items() if v == self.minimise)
        return ", ".join([*(x.text for x in self.limits), f"{goal}:min"])


def parse_time(text: str | float | None) -> float | None:
    """Seconds from "90s", "20m", "1.5h" or a number; None for no limit."""
    if text is None:
        return None
    found = _TIME.match(str(text).strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not seconds > 0:
        raise PacklightError(f"time limit {text!r}: give a positive time, e.g. 90s, 20m or 1.5h")
    return seconds


def _known(name: str, part: str) -> str:
    if name not in MEASURED:
        raise PacklightError(f"budget {part!r}: {name!r} is not measured; choose one of {', '.join(MEASURED)}")
    return name


def _limit(name: str, number: float, unit: str, part: str) -> Limit:
    if unit == "%":
        return Limit(name, number, True, part)
    units = _UNITS[MEASURED[name]]
    if unit not in units:
        given = f"no unit {unit!r} for {name}" if unit else "a unit is missing"
        raise PacklightError(f"budget {part!r}: {given}; use % (of the baseline) or one of {', '.join(units)}")
    return Limit(name, number * units[unit], False, part)


def _samples(limit: Limit, found: Measurement, bound: float) -> str:
    """About how many samples would shrink a drop's interval enough: its width falls with the square root of n."""
    slack = bound - found.value
    if limit.name != "drop" or slack <= 0:
        return ""
    needed = found.n * ((found.high - found.value) / slack) ** 2
    return f"; about {math.ceil(needed / 100) * 100:,} samples would prove it, {found.n:,} were there"

"""Which form ships: pure decisions on measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from packlight.measure import Measurement
from packlight.search.budget import Budget, Verdict
from packlight.search.result import Form

SLOWER = 1.02
# Timings this close are alike; the goals that are not listed are exact.
_ALIKE = {"latency_ms": SLOWER, "cold_start_ms": SLOWER, "peak_memory_bytes": SLOWER}


def refusal(measured: Mapping[str, Measurement]) -> str:
    """Why a form must not ship in place of the baseline, "" when it may: slower (the latency ratio's whole interval
    is above 1.02) or larger."""
    reasons = []
    ratio, size = measured["latency_ratio"], measured["file_ratio"]
    if ratio.low > SLOWER:
        reasons.append(f"slower than the float baseline: latency {ratio}")
    if size.value < 1:
        reasons.append(f"larger than the float baseline: file {1 / size.value:.3g} ×")
    return "; ".join(reasons)


def fits(form: Form, budget: Budget, baseline: Form, *, prove: bool = False) -> bool:
    """Whether a form may ship and keeps the budget; prove: with the bad ends of its intervals, too."""
    verdict = budget.judge(form.measurements, baseline.measurements)
    return not form.refused and (verdict.proven if prove else verdict.met)


def choose(baseline: Form, tried: Sequence[Form], budget: Budget, *, prove: bool = False) -> Form:
    """The form within budget that minimises its goal; else the nearest miss. The baseline counts as a form.

    Among forms that are alike in a noisy goal the smallest file wins, then the fastest, then the most accurate.
    """
    forms = [baseline, *(f for f in tried if not f.refused)]
    inside = [f for f in forms if fits(f, budget, baseline, prove=prove)]
    if not inside:
        least = min(_excess(f, budget, baseline) for f in forms)
        inside = [f for f in forms if _excess(f, budget, baseline) == least]
    lowest = min(_goal(f, budget) for f in inside)
    alike = [f for f in inside if _goal(f, budget) <= max(lowest, lowest * _ALIKE.get(budget.minimise, 1.0))]
    return min(alike, key=lambda f: [f.measurements[k].value for k in ("file_bytes", "latency_ratio", "drop_points")])


def explained(verdict: Verdict, best: Form, baseline: Form, tried: Sequence[Form], budget: Budget) -> Verdict:
    """The verdict, with the reason why the baseline ships where it does."""
    if best.name != baseline.name:
        return verdict
    if not tried:
        why = "no other form was measured"
    elif all(f.refused for f in tried):
        why = f"every other form was refused ({'; '.join(f'{f.name}: {f.refused}' for f in tried)})"
    elif not any(fits(f, budget, baseline) for f in tried):
        why = "no other form keeps the budget or comes nearer"
    else:
        why = "no other form does better"
    return replace(verdict, reason=f"{verdict.reason}; the float baseline ships: {why}")


def _goal(form: Form, budget: Budget) -> float:
    """The goal's value; of latencies the ratio, since forms are timed with the baseline, not with one another."""
    return form.measurements["latency_ratio" if budget.minimise == "latency_ms" else budget.minimise].value


def _excess(form: Form, budget: Budget, baseline: Form) -> float:
    return budget.judge(form.measurements, baseline.measurements).excess

"""Ledger rows as a run would have written them."""

import numpy as np

from benchmarks.ledger import DONE, Row, finding, packed
from packlight.measure import Measurement, intervals
from packlight.task.metrics import accuracy

STAMP = {
    "run": "quick-1", "time": "2026-11-22T04:00:00+00:00", "mode": "quick", "case": "net", "network": "net",
    "commit": "a" * 40, "dirty": False, "machine": {"processor": "a processor", "cores": 2},
}  # fmt: skip


def made_row(form, what, measured=None, batch=None, stamp=(), **detail):
    return Row(**{**STAMP, **dict(stamp)}, **finding(form, what, measured, batch=batch, **detail))


def made_case(forms, stamp=()):
    """Rows of a case. forms: label -> {"bytes", "right" (bools), "rounds" (seconds)}, each optional but bytes."""
    rows = []
    for form, facts in forms.items():
        rows.append(made_row(form, "file_bytes", Measurement.exact(facts["bytes"], "bytes"), stamp=stamp))
        rows.append(made_row(form, "times_smaller", Measurement.exact(1e6 / facts["bytes"], "×"), stamp=stamp))
        if "right" in facts:
            right = np.asarray(facts["right"])
            hits, data = right[:, None].astype(float), facts.get("data", "0" * 12)
            quality = intervals.quality(hits, accuracy())
            rows.append(made_row(form, "accuracy", quality, stamp=stamp, right=packed(right), data=data))
            base = np.asarray(forms["float32"]["right"])[:, None].astype(float)
            rows.append(made_row(form, "drop_points", intervals.drop(base, hits, accuracy()), stamp=stamp))
        if "rounds" in facts:
            rounds, base = list(facts["rounds"]), np.asarray(forms["float32"]["rounds"])
            milliseconds = intervals.median([1e3 * t for t in rounds], "ms")
            rows.append(made_row(form, "latency_ms", milliseconds, 1, stamp, rounds=rounds))
            against = intervals.median((np.asarray(rounds) / base).tolist(), "×")
            rows.append(made_row(form, "latency_ratio", against, 1, stamp))
    return [*rows, made_row("", DONE, Measurement.exact(12.0, "s"), stamp=stamp)]

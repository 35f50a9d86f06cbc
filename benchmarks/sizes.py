"""What is told of a small file, whoever wrote it: bytes, how many times smaller than float32, and what it loses."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.ledger import Finding, finding
from packlight.measure import Measurement
from packlight.model import Model


def float_bytes(model: Model) -> int:
    """Of the parameters as float32."""
    return sum(p.numel() for p in model.parameters()) * 4


def sized(form: str, size: int, network: Model, drop: Measurement) -> Iterator[Finding]:
    """size: bytes. network: as it was; drop: against it."""
    yield finding(form, "bytes", Measurement.exact(size, "bytes"))
    yield finding(form, "times smaller", Measurement.exact(round(float_bytes(network) / size, 2), ""))
    yield finding(form, "drop", drop)

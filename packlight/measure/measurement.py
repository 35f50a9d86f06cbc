"""A number that was measured, with its unit, how often it was observed, and its 95 % interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """value with 95 % interval [low, high] from n observations. Exact counts such as bytes have low = high."""

    value: float
    unit: str
    n: int
    low: float
    high: float

    @staticmethod
    def exact(value: float, unit: str) -> Measurement:
        """A count that carries no uncertainty."""
        return Measurement(value, unit, 1, value, value)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.low == self.high:
            return f"{self.value:,.6g}{unit}"
        return f"{self.value:.4g}{unit} [{self.low:.4g}, {self.high:.4g}]"

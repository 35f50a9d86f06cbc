"""A number that was measured, with its unit, how often it was observed, and its 95 % interval."""

from __future__ import annotations

import math
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
    def exact(value: float, unit: str, n: int = 1) -> Measurement:
        """A count that carries no uncertainty."""
        return Measurement(value, unit, n, value, value)

    def as_json(self) -> dict[str, Any]:
        """The five fields; null for a number that is not finite, which JSON cannot hold."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        number = _written(self.value) + (f" {self.unit}" if self.unit else "")
        return number if self.low == self.high else f"{number} [{_written(self.low)}, {_written(self.high)}]"


def _written(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"

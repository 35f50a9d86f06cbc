"""How a width multiplier scales a network's channels (Howard et al. 2017, arXiv 1704.04861, section 3.3)."""

from __future__ import annotations


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """channels × width, rounded to a multiple of `multiple`, which is also the least."""
    return multiple * max(1, round(channels * width / multiple))

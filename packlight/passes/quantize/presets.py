"""Ways to give layers their bits within a budget: one number for all, or one threshold for all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import Node

from packlight.errors import PacklightError
from packlight.passes.quantize.mixed import Roundings

PRESETS = ("global", "local", "mixed")
_UNITS = {"bits": ("bits", 1.0), "b": ("bytes", 1.0), "bytes": ("bytes", 1.0), "kb": ("bytes", 1e3),
          "mb": ("bytes", 1e6), "gb": ("bytes", 1e9), "db": ("dB", 1.0)}  # fmt: skip
_BUDGET = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]+)\s*\Z")


@dataclass(frozen=True)
class Limit:
    """kind: "bits" (of a weight in the mean, at most), "bytes" (of all weights, at most) or "dB" (at least)."""

    kind: str
    value: float


def parse_limit(budget: str, preset: str) -> Limit:
    """ "200kB", "4bits" or, of the preset "local" alone, "20dB"."""
    found = _BUDGET.match(budget)
    kind, factor = _UNITS.get(found[2].lower(), ("", 0.0)) if found else ("", 0.0)
    if not found or not kind or (kind == "dB" and preset != "local"):
        more = ", or 20dB, which each weight's signal-to-noise ratio is to reach" if preset == "local" else ""
        raise PacklightError(f"budget {budget!r} of mixed={preset!r}: give bytes, 200kB, or bits a weight, 4bits{more}")
    return Limit(kind, float(found[1]) * factor)


def mean_bits(limit: Limit, sizes: Mapping[Node, int]) -> float | None:
    """Bits a weight in the mean; None of a limit that is not one of size. sizes: elements of each layer's weight."""
    if limit.kind == "dB":
        return None
    return limit.value if limit.kind == "bits" else 8 * limit.value / sum(sizes.values())


def equal_bits(forms: Roundings, sizes: Mapping[Node, int], fixed: Mapping[Node, int], mean: float) -> dict[Node, int]:
    """The most bits that all layers but those that are fixed can have alike."""
    for b in sorted(forms.choices, reverse=True):
        found = {n: fixed.get(n, b) for n in sizes}
        if _fits(found, sizes, mean):
            return found
    raise _too_few(forms, sizes, fixed, mean)


def local_bits(
    forms: Roundings, sizes: Mapping[Node, int], fixed: Mapping[Node, int], mean: float | None, threshold: float
) -> tuple[dict[Node, int], float]:
    """The fewest bits at which each weight's signal-to-noise ratio reaches a threshold in dB, and the threshold: the
    given one, or with a `mean` the highest whose bits fit. A layer that never reaches it has the most bits."""
    ratios = {n: {b: _ratio(forms, n, b) for b in forms.choices} for n in sizes}

    def at(least: float) -> dict[Node, int]:
        return {
            n: fixed[n] if n in fixed else min((b for b, r in row.items() if r >= least), default=max(row))
            for n, row in ratios.items()
        }  # fmt: skip

    if mean is None:
        return at(threshold), threshold
    levels = sorted({r for n, row in ratios.items() if n not in fixed for r in row.values()}, reverse=True)
    for least in levels:
        if _fits(found := at(least), sizes, mean):
            return found, least
    raise _too_few(forms, sizes, fixed, mean)


def _ratio(forms: Roundings, node: Node, bits: int) -> float:
    """Power of a weight over that of its rounding error, dB."""
    weight = forms.weights[node].double()
    noise = float((forms.rounded(node, bits).double() - weight).square().sum())
    return 10 * math.log10(float(weight.square().sum()) / noise) if noise else math.inf


def _fits(bits: Mapping[Node, int], sizes: Mapping[Node, int], mean: float) -> bool:
    return sum(b * sizes[n] for n, b in bits.items()) <= mean * sum(sizes.values()) + 1e-6


def _too_few(forms: Roundings, sizes: Mapping[Node, int], fixed: Mapping[Node, int], mean: float) -> PacklightError:
    total = sum(sizes.values())
    least = sum(fixed.get(n, min(forms.choices)) * size for n, size in sizes.items()) / total
    return PacklightError(f"weights cannot have {mean:.3g} bits in the mean: {least:.2f} is the least here")

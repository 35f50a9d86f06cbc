"""Scales and zero points from observed ranges: pure functions on tensors.

MSE-searched ranges clip a little so that the rest is resolved more finely: among clipped ranges the one
with the least mean squared rounding-plus-clipping error wins (Nagel et al. 2021, arXiv 2106.08295,
section 3.1). Percentile ranges leave out the tails; entropy ranges lose the least information (Migacz 2017, "8-bit
inference with TensorRT", GTC).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from packlight.model.numerics import Format


class Affine(NamedTuple):
    """scale: > 0. zero_point: integer within the format's range. Both float64 [...], one a range."""

    scale: Tensor
    zero_point: Tensor


_TINY = 1e-12
_OCTAVES = 5  # that a power of two may clip
LARGEST_BIAS = 2**30  # in units of the int32 accumulator


def affine(low: Tensor, high: Tensor, form: Format) -> Affine:
    """Scale and zero point that cover [low, high] and hold 0 exactly. low, high: float64, any shape."""
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    if form.symmetric:
        middle = 0 if form.signed else (form.high + 1) // 2
        reach = torch.maximum(-low, high)
        steps = form.high if form.signed else form.high - middle
        return Affine((reach / steps).clamp(min=_TINY), torch.full_like(reach, middle))
    scale = ((high - low) / (form.high - form.low)).clamp(min=_TINY)
    zero = (form.low - low / scale).round().clamp(form.low, form.high)
    return Affine(scale, zero)


def powers_around(low: Tensor, high: Tensor, form: Format) -> list[Affine]:
    """Powers of two as scales of a range, the first one covering all of it, each next one half of it."""
    whole = affine(low, high, form)
    found = []
    for halved in range(_OCTAVES):
        scale = next_power(whole.scale) / 2**halved
        zero = whole.zero_point
        if not form.symmetric:
            zero = (form.low - low.double().clamp(max=0.0) / scale).round().clamp(form.low, form.high)
        found.append(Affine(scale, zero))
    return found


def next_power(scale: Tensor) -> Tensor:
    """The least power of two that is not below `scale` (> 0), exactly."""
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).to(exponent.dtype))


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, form: Format) -> Tensor:
    """The nearest representable value of every element: |x − x̂| <= scale / 2 inside the range."""
    q = ((x / scale).round() + zero_point).clamp(form.low, form.high)
    return (q - zero_point) * scale


def weight_scales(weight: Tensor, form: Format, axis: int = 0, search: bool = True) -> Tensor:
    """Symmetric scales float32 [channels] of a weight along its output axis (or [1] when not per channel).

    search: choose each channel's clip among 1, 0.98, … of its largest magnitude by squared error.
    """
    weight = weight.detach().float()
    flat = weight.movedim(axis, 0).flatten(1) if form.per_channel else weight.reshape(1, -1)
    reach = flat.abs().amax(1)
    best = (reach / form.high).clamp(min=_TINY)
    if form.power_of_two:
        best = next_power(best)
    if not search:
        return best
    least = torch.full_like(reach, torch.inf)
    scales = best
    for share in [0.5**n for n in range(_OCTAVES)] if form.power_of_two else clip_shares(form.bits):
        scale = best * share
        error = (fake_quantize(flat, scale[:, None], torch.zeros(()), form) - flat).square().sum(1)
        scales = torch.where(error < least, scale, scales)
        least = torch.minimum(error, least)
    return scales


def clip_shares(bits: int) -> list[float]:
    """Clip ratios worth trying: at 8 bits little clipping can pay, at few bits much does."""
    lowest, count = {8: (0.9, 6), 7: (0.85, 8), 6: (0.8, 11), 5: (0.7, 16), 4: (0.3, 36)}.get(bits, (0.1, 46))
    return [1 - (1 - lowest) * i / (count - 1) for i in range(count)]


def best_range(counts: Tensor, edges: Tensor, form: Format) -> tuple[float, float]:
    """The clipped range (low, high) with the least expected squared error under a histogram.

    counts: [bins] >= 0. edges: float64 [bins + 1], ascending. Both ends shrink together first, then each alone.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    used = counts > 0
    if not used.any():
        return 0.0, 0.0
    centres, counts = centres[used], counts[used].double()
    low, high = min(0.0, float(centres[0])), max(0.0, float(centres[-1]))
    shares = torch.linspace(0.3, 1.0, 71, dtype=torch.float64)
    low, high = _least(centres, counts, low * shares, high * shares, form)
    if low < 0 < high and not form.symmetric:
        low, high = _least(centres, counts, low * shares, torch.full_like(shares, high), form)
        low, high = _least(centres, counts, torch.full_like(shares, low), high * shares, form)
    return low, high


def percentile_range(counts: Tensor, edges: Tensor, share: float = 0.9999) -> tuple[float, float]:
    """(low, high) between which `share` of the values lie, as much left out on either side.

    counts: [bins] >= 0. edges: float64 [bins + 1], ascending.
    """
    below = counts.double().cumsum(0)
    total = float(below[-1])
    if total == 0:
        return 0.0, 0.0
    tail = (1 - share) / 2 * total
    low = edges[:-1][below > tail][0]
    high = edges[1:][below >= total - tail][0]
    return min(0.0, float(low)), max(0.0, float(high))


def entropy_range(counts: Tensor, edges: Tensor, form: Format) -> tuple[float, float]:
    """The clipped range with the least Kullback–Leibler divergence of what is clipped from what its levels tell of it.

    counts: [bins] >= 0. edges: float64 [bins + 1], ascending. Both ends shrink together.
    """
    used = counts > 0
    if not used.any():
        return 0.0, 0.0
    centres, counts = ((edges[:-1] + edges[1:]) / 2)[used], counts[used].double()
    low, high = min(0.0, float(centres[0])), max(0.0, float(centres[-1]))
    best, least = (low, high), torch.inf
    for share in torch.linspace(1.0, 0.3, 71, dtype=torch.float64).tolist():
        ends = low * share, high * share
        inside = (centres >= ends[0]) & (centres <= ends[1])
        if not inside.any():
            continue
        seen, at = counts[inside], centres[inside]
        clipped = seen.clone()
        clipped[0] += counts[centres < ends[0]].sum()
        clipped[-1] += counts[centres > ends[1]].sum()
        scale, zero = affine(torch.tensor(ends[0]), torch.tensor(ends[1]), form)
        steps = ((at / scale).round() + zero).clamp(form.low, form.high)
        level = torch.unique(steps, return_inverse=True)[1]
        mass = torch.zeros(int(level.max()) + 1, dtype=torch.float64).index_add_(0, level, seen)
        bins = torch.zeros_like(mass).index_add_(0, level, torch.ones_like(seen))
        told = (mass / bins)[level]
        p, q = clipped / clipped.sum(), told / told.sum()
        lost = float((p * (p / q).log()).sum())
        if lost < least:
            best, least = ends, lost
    return best


def _least(centres: Tensor, counts: Tensor, low: Tensor, high: Tensor, form: Format) -> tuple[float, float]:
    scale, zero = affine(low, high, form)
    rounded = fake_quantize(centres, scale[:, None], zero[:, None], form)
    error = ((rounded - centres).square() * counts).sum(1)
    i = int(error.argmin())
    return float(low[i]), float(high[i])


def room_for_bias(scales: Tensor, bias: Tensor, input_scale: float, power_of_two: bool = False) -> Tensor:
    """Weight scales, raised where |bias| / (input_scale · scale) would leave int32: channels whose weights are all
    but zero have tiny scales. A single scale serves the largest bias."""
    least = bias.detach().double().abs() / (LARGEST_BIAS * input_scale)
    if len(scales) == 1:
        least = least.amax().reshape(1)
    raised = torch.maximum(scales.double(), least).to(scales.dtype)
    return next_power(raised) if power_of_two else raised

"""Bits for every layer's weights: the least damage within a number of bytes.

What the weights of a layer at so many bits do to the outputs is measured, the rest in float: the squared change of the
outputs over their size. To second order, damages add up (Dong et al. 2019, arXiv 1911.03852, section 3), so that the
choice is an integer programme: one number of bits a layer, least sum of damages, bytes within the limit. It is solved
by dynamic programming over the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Format
from packlight.passes.quantize.groups import block_grid, block_of
from packlight.passes.quantize.ranges import fake_quantize, weight_scales

CHOICES = (2, 3, 4, 5, 6, 8)
_UNITS = 100_000  # in which bits are counted where there are more; a layer may seem larger by one


@dataclass(frozen=True)
class Damage:
    """What bits do to one layer's weight. elements: of it. change: bits → squared change of the outputs over their
    size."""

    layer: str
    elements: int
    change: Mapping[int, float]


@torch.no_grad()
def damages(
    model: Model,
    layers: Sequence[Node],
    form: Format,
    batches: Sequence[tuple[Tensor, ...]],
    choices: Sequence[int] = CHOICES,
    search: bool = True,
) -> list[Damage]:
    """For each weighted layer of a float Model in eval mode; every entry is a run over the batches."""
    wanted = [model.flat(*batch) for batch in batches]
    size = sum(float(y.square().sum()) for outputs in wanted for y in outputs if y.is_floating_point())
    found = []
    for node in layers:
        weight = model.tensor(node.args[1])  # type: ignore[arg-type]
        kept, change = weight.detach().clone(), {}
        for bits in sorted(choices):
            one = replace(form, bits=bits)
            weight.copy_(rounded(kept, one, search))
            off = 0.0
            for batch, outputs in zip(batches, wanted, strict=True):
                pairs = zip(model.flat(*batch), outputs, strict=True)
                off += sum(float((a - b).square().sum()) for a, b in pairs if b.is_floating_point())
            change[bits] = off / size if size else off
        weight.copy_(kept)
        found.append(Damage(model.layer(node), kept.numel(), change))
    return found


def rounded(weight: Tensor, form: Format, search: bool = True) -> Tensor:
    """A weight [channels, …] on its format's grid, each to the nearest."""
    if form.group is not None and weight.dim() == 2:
        rows = weight.reshape(-1, block_of(weight.shape[1], form.group))
        scale, zero = block_grid(rows, form, search)
        return fake_quantize(rows, scale[:, None], zero[:, None], form).reshape(weight.shape)
    scales = weight_scales(weight, form, search=search)
    return fake_quantize(weight, scales.reshape(-1, *[1] * (weight.dim() - 1)), torch.zeros(()), form)


def assign(table: Sequence[Damage], mean_bits: float, fixed: Mapping[str, int] | None = None) -> dict[str, int]:
    """Bits by layer: the least sum of damages with at most `mean_bits` a weight. fixed: layers that have theirs.
    Raises PacklightError where even the fewest bits are too many."""
    fixed = fixed or {}
    choices = [sorted(b for b in row.change if fixed.get(row.layer, b) == b) for row in table]
    for row, bits in zip(table, choices, strict=True):
        if not bits:
            raise PacklightError(f"{row.layer} is set to {fixed[row.layer]} bits, which is not among {CHOICES}")
    total = sum(row.elements for row in table)
    limit = int(mean_bits * total + 1e-6)
    least = sum(bits[0] * row.elements for row, bits in zip(table, choices, strict=True))
    unit = max(1, -(-limit // _UNITS))  # bits that are counted as one
    best = np.zeros(limit // unit + 1)  # least damage of the layers so far, by units that they may take
    taken = []
    for row, bits in zip(table, choices, strict=True):
        arms = np.full((len(bits), len(best)), np.inf)
        for arm, b in zip(arms, bits, strict=True):
            if (cost := -(-row.elements * b // unit)) < len(best):
                arm[cost:] = best[: len(best) - cost] + row.change[b]
        taken.append(arms.argmin(0))
        best = arms.min(0)
    if least > limit or not np.isfinite(best[-1]):
        raise PacklightError(
            f"weights cannot have {mean_bits:g} bits in the mean: {least / total:.2f} is the least here"
        )
    found, left = {}, len(best) - 1
    for row, bits, arm in zip(reversed(table), reversed(choices), reversed(taken), strict=True):
        found[row.layer] = bits[arm[left]]
        left -= -(-row.elements * found[row.layer] // unit)
    return dict(reversed(found.items()))

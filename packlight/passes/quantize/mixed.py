"""Bits for every layer's weights: the least damage within a number of bytes.

What the weights of a layer at so many bits do to the outputs is measured, the rest in float: the squared change of the
outputs over their size. To second order, damages add up (Dong et al. 2019, arXiv 1911.03852, section 3), so that the
choice is an integer programme: one number of bits a layer, least sum of damages, bytes within the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Format
from packlight.passes.quantize.ranges import fake_quantize, weight_scales

CHOICES = (2, 3, 4, 5, 6, 8)


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
    scales = weight_scales(weight, form, search=search)
    return fake_quantize(weight, scales.reshape(-1, *[1] * (weight.dim() - 1)), torch.zeros(()), form)


def assign(table: Sequence[Damage], mean_bits: float, fixed: Mapping[str, int] | None = None) -> dict[str, int]:
    """Bits by layer: the least sum of damages with at most `mean_bits` a weight. fixed: layers that have theirs.
    Raises PacklightError where even the fewest bits are too many."""
    fixed = fixed or {}
    pairs = [
        (i, bits) for i, row in enumerate(table) for bits in sorted(row.change) if fixed.get(row.layer, bits) == bits
    ]
    missing = [row.layer for i, row in enumerate(table) if i not in {p[0] for p in pairs}]
    if missing:
        raise PacklightError(f"{missing[0]} is set to {fixed[missing[0]]} bits, which is not among {CHOICES}")
    cost = np.array([table[i].change[bits] for i, bits in pairs])
    taken = np.array([float(table[i].elements * bits) for i, bits in pairs])
    one_each = np.array([[float(i == row) for i, _ in pairs] for row in range(len(table))])
    total = sum(row.elements for row in table)
    limits = [LinearConstraint(one_each, 1, 1), LinearConstraint(taken[None] / total, -np.inf, mean_bits + 1e-9)]
    found = milp(
        cost / (cost.max() or 1), integrality=np.ones(len(pairs), np.int64), bounds=Bounds(0, 1), constraints=limits
    )
    if found.x is None:
        least = sum(min(b for j, b in pairs if j == i) * row.elements for i, row in enumerate(table)) / total
        raise PacklightError(f"weights cannot have {mean_bits:g} bits in the mean: {least:.2f} is the least here")
    return {table[i].layer: bits for (i, bits), chosen in zip(pairs, found.x, strict=True) if chosen > 0.5}

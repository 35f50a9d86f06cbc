"""Bits for every layer's weights: the least damage within a number of bytes.

What the weights of a layer at so many bits do to the outputs is measured, the rest in float: their distance, which is
the divergence of the class probabilities for classifiers, to second order the quadratic form of the Fisher information.
Where layers do not interact damages add up (Dong et al. 2019, arXiv 1911.03852, section 3), so that the choice is an
integer programme: one number of bits a layer, least sum of damages, bytes within the limit. It is solved by dynamic
programming over the bytes. `refine` makes good what does not add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Format
from packlight.passes.quantize.groups import block_grid, block_of
from packlight.passes.quantize.ranges import fake_quantize, weight_scales
from packlight.passes.sensitivity.cache import key_of, remembered
from packlight.passes.sensitivity.change import SQUARED, Changes, Distance
from packlight.passes.sensitivity.table import weight_of

CHOICES = (2, 3, 4, 5, 6, 8)
_UNITS = 100_000  # in which bits are counted where there are more; a layer may seem larger by one


@dataclass(frozen=True)
class Damage:
    """What bits do to one layer's weight. elements: of it. change: bits → distance of the outputs."""

    layer: str
    elements: int
    change: Mapping[int, float]


def damages(
    model: Model,
    layers: Sequence[Node],
    form: Format,
    batches: Sequence[tuple[Tensor, ...]],
    choices: Sequence[int] = CHOICES,
    search: bool = True,
    distance: Distance = SQUARED,
) -> list[Damage]:
    """For each weighted layer of a float Model in eval mode; every entry is a run over the batches from there on."""
    forms = Roundings(model, layers, form, choices, search)
    return damages_beside(Changes(model, batches, distance), forms, dict.fromkeys(layers, forms.choices))


def damage_table(
    model: Model,
    layers: Sequence[Node],
    form: Format,
    batches: Sequence[tuple[Tensor, ...]],
    search: bool = True,
    distance: Distance = SQUARED,
    cache: Path | None = None,
) -> list[Damage]:
    """`damages`, remembered in a folder."""
    how: dict[str, Any] = {"form": asdict(form), "search": search, "distance": distance.what, "choices": list(CHOICES)}
    key = key_of(model, batches, {"damages": [model.layer(n) for n in layers], **how})

    def read(rows: Any) -> list[Damage]:
        return [Damage(str(name), int(size), {int(b): float(d) for b, d in change}) for name, size, change in rows]

    def write(rows: list[Damage]) -> Any:
        return [[r.layer, r.elements, [[b, d] for b, d in r.change.items()]] for r in rows]

    found: list[Damage] = remembered(
        cache, key, lambda: damages(model, layers, form, batches, CHOICES, search, distance), read, write
    )
    return found


def damages_beside(
    changes: Changes, forms: Roundings, choices: Mapping[Node, Sequence[int]], bits: Mapping[Node, int] | None = None
) -> list[Damage]:
    """For each layer in `choices` at those bits, beside the others at theirs in `bits`, or in float."""
    made = {n: {b: partial(forms.rounded, n, b) for b in wanted} for n, wanted in choices.items()}
    found = changes.single(made, {n: forms.rounded(n, b) for n, b in (bits or {}).items()})
    model = changes.model
    return [Damage(model.layer(n), model.tensor(weight_of(n)).numel(), found[n]) for n in choices]


class Roundings:
    """Weights of layers at each number of bits, each element to the nearest; made when asked for."""

    def __init__(
        self, model: Model, layers: Sequence[Node], form: Format, choices: Sequence[int] = CHOICES, search: bool = True
    ):
        self.weights = {n: model.tensor(weight_of(n)).detach() for n in layers}
        self.forms = {bits: replace(form, bits=bits) for bits in sorted(choices)}
        self.grids = {
            n: {bits: _grid(w, one, search) for bits, one in self.forms.items()} for n, w in self.weights.items()
        }

    @property
    def choices(self) -> tuple[int, ...]:
        return tuple(self.forms)

    def rounded(self, node: Node, bits: int) -> Tensor:
        """A layer's weight on the grid of so many bits."""
        weight, (shape, scale, zero) = self.weights[node], self.grids[node][bits]
        return fake_quantize(weight.reshape(shape), scale, zero, self.forms[bits]).reshape(weight.shape)


def _grid(weight: Tensor, form: Format, search: bool) -> tuple[Sequence[int], Tensor, Tensor]:
    """(shape of a weight in which scales and zero points broadcast over it, scales, zero points)."""
    if form.group is not None and weight.dim() == 2:
        rows = weight.reshape(-1, block_of(weight.shape[1], form.group))
        scale, zero = block_grid(rows, form, search)
        return rows.shape, scale[:, None], zero[:, None]
    scales = weight_scales(weight, form, search=search)
    return weight.shape, scales.reshape(-1, *[1] * (weight.dim() - 1)), torch.zeros(())


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

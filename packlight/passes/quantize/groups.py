"""Weights alone as integers, in blocks along the input axis that each have a scale: activations stay in float.

A weight [outputs, inputs] is cut into blocks of `group` elements of one output's row (Shen et al. 2020, arXiv
1909.05840, section 3.2, in the form of Frantar et al. 2022, arXiv 2210.17323, section 4). A float32 scale for every 32
weights adds one bit a weight. Symmetric: q in [−8, 7] with 4 bits; asymmetric: a zero point a block as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Format, Numerics
from packlight.passes.quantize.pairs import insert_constant_pair
from packlight.passes.quantize.placement import Kernel, Placement
from packlight.passes.quantize.ranges import Affine, affine, clip_shares, fake_quantize, powers_around, weight_scales

_SMALLEST = 16


@dataclass(frozen=True)
class Scales:
    """What shares a scale in weights that are quantized alone. group: elements along the input axis, 16 and up; None:
    all of an output. symmetric: without a zero point. power_of_two: of all scales, also those of activations, the
    power of two that has the least squared error."""

    group: int | None = 32
    symmetric: bool = True
    power_of_two: bool = False


def weights_placement(placement: Placement, scales: Scales, numerics: Numerics) -> Placement:
    """The kernels with a weight, and no activation. Raises PacklightError where the target has no such blocks."""
    if scales.group is not None and scales.group not in numerics.blocks:
        allowed = ", ".join(map(str, numerics.blocks)) or "none but whole channels"
        raise PacklightError(f"this target takes weights in blocks of {allowed} (or None); got {scales.group}")
    return Placement([k for k in placement.kernels if k.group.weighted], kept_float=placement.kept_float)


def block_of(features: int, group: int | None) -> int:
    """The block that a layer of so many input features gets: `group` halved until it divides them, or all of them."""
    while group is not None and group >= _SMALLEST:
        if features % group == 0:
            return group
        group //= 2
    return features


def block_grid(rows: Tensor, form: Format, search: bool = True) -> Affine:
    """Scale float32 and zero point int64, both [blocks], of blocks [blocks, elements].

    search: choose each block's clip among 1, 0.98, … of its range by squared error.
    """
    rows = rows.detach().float()
    if form.symmetric:
        scale = weight_scales(rows, replace(form, per_channel=True, group=None), search=search)
        return Affine(scale, torch.zeros(len(rows), dtype=torch.int64))
    low, high = rows.aminmax(dim=1)
    tries = [affine(low * share, high * share, form) for share in (clip_shares(form.bits) if search else [1.0])]
    if form.power_of_two:
        tries = powers_around(low, high, form)[: None if search else 1]
    best, least = tries[0], torch.full_like(tries[0].scale, torch.inf)
    for tried in tries:
        off = fake_quantize(rows.double(), tried.scale[:, None], tried.zero_point[:, None], form) - rows
        error = off.square().sum(1)
        best = Affine(*(torch.where(error < least, t, b) for t, b in zip(tried, best, strict=True)))
        least = torch.minimum(error, least)
    return Affine(best.scale.float(), best.zero_point.long())


def insert_blocks(model: Model, kernel: Kernel, form: Format, search: bool) -> str | None:
    """Put a quantize/dequantize pair with a scale a block behind a kernel's weight, in place; what is worth telling."""
    source = kernel.first.args[1]
    assert isinstance(source, Node)
    weight, layer = model.tensor(source), model.layer(kernel.first)
    block = block_of(weight.shape[1], form.group)
    scales, zeros = block_grid(weight.reshape(-1, block), form, search)
    insert_constant_pair(model, source, kernel.first, scales, zeros, form, block)
    if form.group in (None, block):
        return None
    return f"{layer} has blocks of {block}: its {weight.shape[1]} inputs are no multiple of {form.group}"

"""GPTQ: weights are rounded one input feature at a time, and what each rounding did wrong is made good by those that
are still to come.

Frantar et al. 2022 (arXiv 2210.17323), section 3.3; after Frantar and Alistarh 2022 (arXiv 2208.11580). The features
with the largest second moments go first ("act order").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.integers import grid
from packlight.passes.patches import features
from packlight.passes.quantize.blocks import Batch, Walker, blocks

_DAMPING = 0.01  # of the mean of the diagonal
_WIDEST = 8192  # features
_COLUMNS = 128  # that are corrected at once


@torch.no_grad()
def gptq(
    quantized: Model,
    batches: Sequence[Batch],
    *,
    on_block: Callable[[int, int], None] = lambda done, of: None,
) -> list[str]:
    """Round the weights of a quantized Model (in place), each layer on what the quantized layers before it give; the
    layers that were left at the nearest: shared inputs of other kinds, more than 8,192 features, no data.
    Batches: of one size."""
    walker = Walker(quantized, batches)
    found = blocks(quantized, layers=True)
    left = []
    for i, block in enumerate(found):
        for weight in block.weights:
            (layer,) = weight.users
            data: Any = layer.args[0]
            walker.advance(data)
            walker.forget()
            if not _round(quantized, layer, weight, walker.values(data)):
                left.append(quantized.layer(layer))
        on_block(i + 1, len(found))
    return left


def _round(model: Model, layer: Node, weight: Node, data: Sequence[Tensor]) -> bool:
    source: Any = weight.args[0]
    master = model.tensor(source.args[0])
    scales, zeros, low, high = grid(model, weight)
    if len(scales) != len(master) or master[0].numel() > _WIDEST:
        return False
    grams: Tensor | None = None
    for x in data:
        rows = features(layer, x, tuple(master.shape[2:]))
        if rows is None:
            return False
        gram = rows.transpose(1, 2).double() @ rows.double()
        grams = gram if grams is None else grams + gram
    if grams is None or not grams.diagonal(dim1=1, dim2=2).any():
        return False
    flat = master.detach().reshape(len(grams), -1, grams.shape[-1])
    spread = (t.reshape(*flat.shape[:2], -1) for t in (scales, zeros))
    grids = zip(flat, grams, *spread, strict=True)
    made = [rounded(w.double(), g, s.double(), z.double(), low, high) for w, g, s, z in grids]
    master.copy_(torch.stack(made).reshape(master.shape))
    return True


def rounded(
    weight: Tensor, gram: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, act_order: bool = True
) -> Tensor:
    """A weight [outputs, features] on the grid of its scales, one an output or one a weight; they are not chosen anew
    as weights move. gram: [features, features], x xᵀ summed."""
    count = len(gram)
    diagonal = gram.diagonal()
    order = diagonal.argsort(descending=True, stable=True) if act_order else torch.arange(count)
    silent = diagonal[order] == 0
    gram = gram[order][:, order] + torch.diag(torch.where(silent, 1.0, _DAMPING * diagonal.mean()))
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram)), upper=True)
    left, made = weight[:, order].clone(), torch.empty_like(weight)
    scales, zeros = (t.reshape(len(weight), -1).expand(-1, count)[:, order] for t in (scale, zero))
    for first in range(0, count, _COLUMNS):
        last = min(first + _COLUMNS, count)
        errors = torch.empty_like(left[:, first:last])
        for j in range(first, last):
            column = left[:, j]
            steps = (column / scales[:, j]).round() + zeros[:, j]
            made[:, j] = (steps.clamp(low, high) - zeros[:, j]) * scales[:, j]
            error = (column - made[:, j]) / upper[j, j]
            left[:, j:last] -= error[:, None] * upper[j, j:last]
            errors[:, j - first] = error
        left[:, last:] -= errors @ upper[first:last, last:]
    back = torch.empty_like(made)
    back[:, order] = made
    return back

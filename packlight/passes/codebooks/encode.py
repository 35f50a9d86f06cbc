"""One weight, or all together, as numbers of table entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from packlight.model.codebooks import Codes
from packlight.passes.codebooks.grids import binary, powers, ternary
from packlight.passes.codebooks.kmeans import cluster
from packlight.passes.codebooks.options import Codebooks
from packlight.passes.codebooks.weights import Weight


def stored_bytes(weight: Weight, bits: int, options: Codebooks) -> int:
    """What a weight takes with packed indices, its tables and factors; one table for the network is not its own."""
    channels = weight.value.shape[weight.axis]
    tables = {"global": 0, "layer": 1, "channel": -(-channels // options.group)}[options.scope]
    own = tables * 2**bits if options.kind == "kmeans" else channels
    return (weight.value.numel() * bits + 7) // 8 + 4 * own


def encoded(weight: Weight, bits: int, options: Codebooks, importance: Tensor | None) -> Codes:
    """A weight with tables, or a grid and factors, of its own."""
    if options.kind == "kmeans":
        return _clustered(weight, bits, options, importance)
    rows = weight.rows
    match options.kind:
        case "binary":
            levels, index, factor = binary(rows)
        case "ternary":
            levels, index, factor = ternary(rows)
        case _:
            levels, index, factor = powers(rows, bits)
    along = [-1 if i == weight.axis else 1 for i in range(weight.value.dim())]
    return Codes(_back(index, weight), levels[None], learned=False, scale=factor.reshape(along))


def encoded_together(
    weights: Sequence[Weight], bits: int, options: Codebooks, importance: Mapping[str, Tensor]
) -> list[Codes]:
    """Weights with one table for all, which is in every result."""
    values = torch.cat([w.value.flatten() for w in weights])[None]
    counts = None
    if importance:
        counts = torch.cat([importance.get(w.name, torch.ones_like(w.value)).flatten() for w in weights])[None]
    zero = any(w.pruned for w in weights)
    table, index = cluster(values, 2**bits, options.init, weights=counts, zero=zero, seed=options.seed)
    parts = index[0].split([w.value.numel() for w in weights])  # type: ignore[no-untyped-call]
    return [
        Codes(part.reshape(w.value.shape).clone(), table[:, int(zero) :], zero=zero)
        for w, part in zip(weights, parts, strict=True)
    ]


def _clustered(weight: Weight, bits: int, options: Codebooks, importance: Tensor | None) -> Codes:
    rows, zero = weight.rows, weight.pruned
    counts = None if importance is None else importance.movedim(weight.axis, 0).flatten(1)
    size = min(options.group, len(rows)) if options.scope == "channel" else len(rows)
    tables, indices = [], []
    whole = len(rows) // size * size
    for part in (slice(0, whole), slice(whole, len(rows))):  # channels that fill no group are one
        if not len(rows[part]):
            continue
        groups = max(1, len(rows[part]) // size)
        table, index = cluster(
            rows[part].reshape(groups, -1), 2**bits, options.init, zero=zero, seed=options.seed,
            weights=None if counts is None else counts[part].reshape(groups, -1),
        )  # fmt: skip
        tables.append(table[:, int(zero) :])
        indices.append(index.reshape(len(rows[part]), -1))
    table, start = torch.cat(tables), None
    if len(table) > 1:
        along = [-1 if i == weight.axis else 1 for i in range(weight.value.dim())]
        start = (torch.arange(len(rows), dtype=torch.int32) // size * 2**bits).reshape(along)
    return Codes(_back(torch.cat(indices), weight), table, zero=zero, start=start)


def _back(index: Tensor, weight: Weight) -> Tensor:
    """Rows of channels in the weight's shape."""
    moved = weight.value.movedim(weight.axis, 0).shape
    return index.reshape(moved).movedim(0, weight.axis).contiguous()

"""k-means in one dimension, many at once.

Lloyd's iterations on sorted values: clusters are intervals, so that an iteration is a binary search for their borders
and differences of prefix sums, whatever the number of values. How centroids start: Han et al. 2016 (arXiv 1510.00149),
section 3.2. Clusters that came out empty, which the paper leaves so, get a place in the widest of the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from packlight.errors import PacklightError

INITS = ("linear", "density", "random")
_ITERATIONS = 1000
_RESEEDS = 10


def cluster(
    values: Tensor,
    count: int,
    init: str = "linear",
    *,
    weights: Tensor | None = None,
    zero: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """(centroids float32 [rows, count], index uint8 [rows, n]) of values [rows, n], each row for itself.

    count: 1 to 256. init: "linear" (evenly from the least to the largest value), "density" (quantiles) or "random"
    (values drawn with the seed). weights: >= 0 [rows, n], of squared errors. zero: one centroid is exactly 0 and comes
    first; the others follow in ascending order.
    """
    if init not in INITS:
        raise PacklightError(f"init {init!r}: choose {', '.join(INITS)}")
    rows = _sorted(values, weights)
    centroids = _initial(rows.values, count - zero, init, zero, seed)
    pinned = torch.zeros_like(centroids, dtype=torch.bool)
    if zero:
        nothing = centroids.new_zeros(len(centroids), 1)
        centroids, pinned = _ordered(torch.cat([centroids, nothing], 1), torch.cat([pinned, nothing == 0], 1))
    for _ in range(_RESEEDS):
        centroids, edges, mass = _lloyd(rows, centroids, pinned)
        moved = _reseeded(rows, centroids, edges, mass, pinned)
        if moved is None:
            break
        centroids, pinned = _ordered(moved, pinned)
    return _numbered(values, centroids.float(), pinned)


class _Sorted(NamedTuple):
    """values: float32 [rows, n], ascending. mass, moment: prefix sums float64 [rows, n + 1] of weights and of weights
    times values."""

    values: Tensor
    mass: Tensor
    moment: Tensor


def _sorted(values: Tensor, weights: Tensor | None) -> _Sorted:
    if weights is None:
        found = torch.from_numpy(np.sort(values.numpy(), axis=-1))  # several times as fast as torch's
        mass = torch.arange(found.shape[1] + 1, dtype=torch.float64).expand(len(found), -1)
        return _Sorted(found, mass, _prefix(found.double()))
    order = torch.from_numpy(np.argsort(values.numpy(), axis=-1, kind="stable"))
    found, kept = values.gather(1, order), weights.gather(1, order).double()
    return _Sorted(found, _prefix(kept), _prefix(kept * found))


def _prefix(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values.cumsum(1), (1, 0))


def _initial(values: Tensor, count: int, init: str, zero: bool, seed: int) -> Tensor:
    """Ascending centroids, float64 [rows, count]. zero: of the values that are not 0."""
    rows = len(values)
    if init == "linear":
        low, high = values[:, :1].double(), values[:, -1:].double()
        return low + (high - low) * torch.linspace(0, 1, count, dtype=torch.float64)
    if init == "density":
        share = ((torch.arange(count, dtype=torch.float64) + 0.5) / max(1, count)).expand(rows, -1)
    else:
        share = torch.rand(rows, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    nothing = torch.zeros(rows, 1)
    first = torch.searchsorted(values, nothing)
    zeros = torch.searchsorted(values, nothing, right=True) - first if zero else torch.zeros_like(first)
    place = (share * (values.shape[1] - zeros)).long()
    place = (place + torch.where(place >= first, zeros, 0)).clamp(max=values.shape[1] - 1)
    return values.gather(1, place).double().sort(1).values


def _lloyd(rows: _Sorted, centroids: Tensor, pinned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(centroids, edges [rows, count + 1], mass [rows, count]) once no value changes its cluster."""
    edges = mass = before = centroids.new_empty(0)
    for _ in range(_ITERATIONS):
        middle = ((centroids[:, 1:] + centroids[:, :-1]) / 2).float()
        cuts = torch.searchsorted(rows.values, middle.contiguous())
        ends = cuts.new_zeros(len(cuts), 1)
        edges = torch.cat([ends, cuts, ends + rows.values.shape[1]], 1)
        mass = rows.mass.gather(1, edges).diff(dim=1)
        if torch.equal(before, edges):
            break
        mean = rows.moment.gather(1, edges).diff(dim=1) / mass
        centroids = torch.where((mass > 0) & ~pinned, mean, centroids)
        before = edges
    return centroids, edges, mass


def _reseeded(rows: _Sorted, centroids: Tensor, edges: Tensor, mass: Tensor, pinned: Tensor) -> Tensor | None:
    """Centroids of empty clusters moved into those with the most mass times width²; None where nothing is to do."""
    empty = (mass <= 0) & ~pinned
    last = rows.values.shape[1] - 1
    low = rows.values.gather(1, edges[:, :-1].clamp(max=last)).double()
    high = rows.values.gather(1, (edges[:, 1:] - 1).clamp(min=0)).double()
    spread = torch.where(mass > 0, mass * (high - low).square(), 0.0)
    if not (empty.any(1) & (spread > 0).any(1)).any():
        return None
    far = torch.where(high - centroids > centroids - low, high, low)
    widest = spread.argsort(dim=1, descending=True, stable=True)
    free = (~empty).to(torch.uint8).argsort(dim=1, stable=True)
    use = empty.gather(1, free) & (spread.gather(1, widest) > 0)
    place = ((centroids + far) / 2).gather(1, widest)
    return centroids.scatter(1, free, torch.where(use, place, centroids.gather(1, free)))


def _ordered(centroids: Tensor, pinned: Tensor) -> tuple[Tensor, Tensor]:
    order = centroids.argsort(dim=1, stable=True)
    return centroids.gather(1, order), pinned.gather(1, order)


def _numbered(values: Tensor, table: Tensor, pinned: Tensor) -> tuple[Tensor, Tensor]:
    """The table with its 0 first where one is pinned, and the nearest entry of every value."""
    middle = ((table[:, 1:] + table[:, :-1]) / 2).contiguous()
    index = torch.searchsorted(middle, values.contiguous(), out_int32=True)
    order = (~pinned).to(torch.uint8).argsort(dim=1, stable=True)
    if not pinned.any():
        return table, index.to(torch.uint8)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    return table.gather(1, order), rank.gather(1, index.long()).masked_fill_(values == 0, 0).to(torch.uint8)

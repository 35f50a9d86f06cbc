"""Tables that are the same for all weights, times a factor an output channel.

Two values ±α: Rastegari et al. 2016 (arXiv 1603.05279), section 3.1. Three, 0 and ±α: Li et al. 2016 (arXiv
1605.04711), section 2.2, there a factor a layer. Powers of two, 0 and ±2^−j for j from 0 on, as in Zhou et al. 2017
(arXiv 1702.03044), section 2.1, whose factors are powers of two themselves; here they are fitted.
"""

from __future__ import annotations

import torch
from torch import Tensor

_THRESHOLD = 0.7  # of the mean magnitude: below, a weight becomes 0
_STEPS = 4  # factors tried an octave, over
_OCTAVES = 4
Grid = tuple[Tensor, Tensor, Tensor]


def binary(weight: Tensor) -> Grid:
    """(levels [2], index uint8 [channels, n], factor > 0 [channels]) of a weight [channels, n]: ± its mean size."""
    return torch.tensor([-1.0, 1.0]), (weight >= 0).to(torch.uint8), _positive(weight.abs().mean(1))


def ternary(weight: Tensor) -> Grid:
    """(levels [3], index uint8 [channels, n], factor > 0 [channels]): 0 up to 0.7 of the mean magnitude, above ± the
    mean magnitude of those."""
    size = weight.abs()
    large = size > _THRESHOLD * size.mean(1, keepdim=True)
    factor = (size * large).sum(1) / large.sum(1).clamp(min=1)
    return torch.tensor([-1.0, 0.0, 1.0]), (1 + large * weight.sign()).to(torch.uint8), _positive(factor)


def powers(weight: Tensor, bits: int) -> Grid:
    """(levels [2^bits − 1], index uint8 [channels, n], factor > 0 [channels]) of bits >= 2, the factor of least squared
    error of sixteen from the largest magnitude down, fitted once more to what it rounds to."""
    magnitudes = torch.exp2(-torch.arange(2 ** (bits - 1) - 1, dtype=torch.float32))
    levels = torch.cat([-magnitudes, magnitudes.new_zeros(1), magnitudes.flip(0)])
    middle = (levels[1:] + levels[:-1]) / 2
    largest = _positive(weight.abs().amax(1))
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for i in range(_STEPS * _OCTAVES):
        factor = largest * 2 ** (-i / _STEPS)
        index = torch.bucketize(weight / factor[:, None], middle, out_int32=True)
        made = levels[index]
        square = made.square().sum(1)
        factor = torch.where(square > 0, (weight * made).sum(1) / square, factor)
        error = (weight - made * factor[:, None]).square().sum(1)
        found = error, index.to(torch.uint8), factor
        if best is not None:
            better = error < best[0]
            found = (
                torch.where(better, error, best[0]),
                torch.where(better[:, None], found[1], best[1]),
                torch.where(better, factor, best[2]),
            )
        best = found
    assert best is not None
    return levels, best[1], _positive(best[2])


def _positive(factor: Tensor) -> Tensor:
    """Factors of channels that are all 0 become 1."""
    return torch.where(factor > 0, factor, 1.0)

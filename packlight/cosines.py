"""Weights over pictures as sums of cosine waves: the discrete cosine transform of type II (Ahmed, Natarajan and Rao
1974), orthonormal but for its cosines being whole multiples of 2⁻¹⁴, so that every machine makes the same weights of
the same waves.

Where neighbouring inputs are alike trained weights over them are smooth, and a few waves say what many weights do (for
kernels of convolutions: Wang et al. 2016, "CNNpack").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

LONGEST = 64  # side of a picture
LARGEST = 1 << 17  # magnitude of a wave's level, so that sums are exact in float64
_UNIT = 1 << 14


@dataclass(frozen=True)
class Waves:
    """The waves of pictures of this height and width. A matrix's columns are pictures one after another, row by row;
    it may be an array or a tensor, of any sizes whose elements lie as in that matrix."""

    height: int
    width: int

    @property
    def size(self) -> int:
        return self.height * self.width

    def of(self, weights: Any) -> Any:
        """How much there is of each wave, in the sizes of the weights: first those that are constant along a column,
        in each the one that is constant along a row first."""
        return self._applied(weights, _analysis(self.height), _analysis(self.width).T)

    def sums(self, amounts: Any) -> Any:
        """The weights again."""
        return self._applied(amounts, _cosines(self.height).T / _UNIT, _cosines(self.width) / _UNIT)

    def weights(self, levels: np.ndarray, step: np.float32) -> np.ndarray:
        """float32 weights of whole multiples of a step, magnitudes at most `LARGEST`: the same bits everywhere."""
        exact = self._applied(levels.astype(np.float64), _cosines(self.height).T, _cosines(self.width))
        made: np.ndarray = ((exact + 0.0) * (np.float64(step) / _UNIT**2)).astype(np.float32)  # no sum is -0
        return made

    def _applied(self, values: Any, left: np.ndarray, right: np.ndarray) -> Any:
        if not isinstance(values, np.ndarray):
            left, right = values.new_tensor(left), values.new_tensor(right)
        return (left @ values.reshape(-1, self.height, self.width) @ right).reshape(values.shape)


@cache
def _cosines(length: int) -> np.ndarray:
    """float64 [waves, places], whole numbers: the nearest to 2¹⁴ √(2 / length) cos(π (2 place + 1) wave / 2 length),
    that of wave 0 over √2. No number is nearer than 0.0004 to the middle of two others, up to length 64."""
    wave, place = np.arange(length)[:, None], np.arange(length)
    size = np.sqrt(np.where(wave == 0, 1, 2) / length)
    made: np.ndarray = np.rint(_UNIT * size * np.cos(np.pi * (2 * place + 1) * wave / (2 * length)))
    return made


@cache
def _analysis(length: int) -> np.ndarray:
    made: np.ndarray = np.linalg.inv(_cosines(length).T / _UNIT)
    return made

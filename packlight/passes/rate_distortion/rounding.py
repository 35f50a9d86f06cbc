"""Levels of one matrix, chosen by what they do to the loss and by the bits that they take.

Columns are rounded one after another, and what each rounding did wrong is made good by those that are still to come
(Frantar et al. 2022, arXiv 2210.17323); the level of a weight is not the nearest one but the one with the least
½ g e² / [H⁻¹]_jj + λ · bits, as in arXiv 2505.18758 (CERWU). Where that paper runs the coder itself, the bits here are
those of the previous round's levels, told apart by how full a weight's row and column are. Weights that are 0 stay so
(Frantar and Alistarh 2023, arXiv 2301.00774): a place that pruning emptied costs more to fill than errors there matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packlight.loops import loop

_DAMPING = 0.05  # of the mean of the diagonal
_CLASSES = 6  # of rows, and of columns, by how full they are
_TOP = 15  # magnitude from which on bits grow by the logarithm
_ROUNDS = 3


@dataclass(frozen=True)
class Rates:
    """bits: float64 [row classes, column classes, _TOP + 1], of a magnitude, its sign included. rows, columns: int64,
    the class of each."""

    bits: Tensor
    rows: Tensor
    columns: Tensor

    def of(self, magnitudes: Tensor, column: int) -> Tensor:
        """float64 [candidates, rows]: the bits of magnitudes of a column."""
        table = self.bits[self.rows, self.columns[column]]  # [rows, magnitudes]
        top = magnitudes.clamp_max(_TOP).long()
        beyond = 2 * torch.log2((magnitudes / _TOP).clamp_min(1))
        return table.gather(1, top.T).T + beyond

    def total(self, levels: Tensor) -> float:
        """Bits of all levels [rows, columns]."""
        top = levels.abs().clamp_max(_TOP).long()
        beyond = 2 * torch.log2((levels.abs() / _TOP).clamp_min(1))
        return float((self.bits[self.rows[:, None], self.columns, top] + beyond).sum())


def rates_of(levels: Tensor) -> Rates:
    """Of levels [rows, columns]."""
    full = levels != 0
    rows, columns = _classes(full.double().mean(1)), _classes(full.double().mean(0))
    magnitudes = levels.abs().clamp_max(_TOP).long()
    cell = (rows[:, None] * _CLASSES + columns) * (_TOP + 1) + magnitudes
    counts = torch.bincount(cell.flatten(), minlength=_CLASSES * _CLASSES * (_TOP + 1)).double()
    counts = counts.reshape(_CLASSES, _CLASSES, _TOP + 1)
    whole = counts.sum((0, 1)) + 0.5 * 0.5 ** torch.arange(_TOP + 1)
    counts = counts + 8 * whole / whole.sum()
    bits = -torch.log2(counts / counts.sum(2, keepdim=True))
    bits[:, :, 1:] += 1
    return Rates(bits, rows, columns)


def _classes(density: Tensor) -> Tensor:
    """Of equally many each."""
    order = density.argsort(stable=True)
    made = torch.empty_like(order)
    made[order] = torch.arange(len(order)) * _CLASSES // max(1, len(order))
    return made


@dataclass(frozen=True)
class Solver:
    """One group's moments, factored. order: columns as they are rounded. upper: the Cholesky factor of the inverse,
    upper triangular, in that order; the constant comes last."""

    order: Tensor
    upper: Tensor

    @property
    def stiffness(self) -> Tensor:
        """float64 [features + 1], in the order of rounding: 1 / [H⁻¹]_jj of what is left then."""
        return 1 / self.upper.diagonal().square()


def damped(moments: Tensor) -> Tensor:
    """Of more samples than there were; moments as of `solver_of`."""
    diagonal = moments.diagonal()
    extra = torch.full_like(diagonal, _DAMPING * float(diagonal[:-1].mean()) + 1e-30)
    extra[-1] = 1e-6 * float(diagonal[-1]) + 1e-30
    return moments + torch.diag(extra)


def solver_of(moments: Tensor) -> Solver:
    """moments: float64 [features + 1, features + 1], the constant last."""
    count = len(moments) - 1
    diagonal = moments.diagonal()
    order = torch.cat([diagonal[:-1].argsort(descending=True, stable=True), torch.tensor([count])])
    moments = damped(moments)[order][:, order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    return Solver(order, torch.linalg.cholesky(inverse, upper=True))


def rounded(weight: Tensor, solver: Solver, gains: Tensor, step: float, price: float) -> tuple[Tensor, Tensor]:
    """Levels [outputs, features] of a weight, float64 and whole, and [outputs], what is to be added to the bias.

    weight: float64. gains: [outputs]. step: > 0. price: loss that one bit is worth, λ.
    """
    order = solver.order[:-1]
    levels, left = (weight / step).round(), weight.new_zeros(len(weight))
    turned = (weight[:, order] / step).numpy()
    upper = (solver.upper / solver.upper.diagonal()[:, None]).numpy()
    harm = 0.5 * step * step * gains[:, None] * solver.stiffness[:-1]  # [outputs, features]
    for _ in range(_ROUNDS):
        rates = rates_of(levels)
        made, rest = np.empty_like(turned), np.empty(len(turned))
        _round_rows(
            turned, upper, (harm / price).numpy(), rates.bits.numpy(), rates.rows.numpy(), rates.columns[order].numpy(),
            made, rest,
        )  # fmt: skip
        levels = torch.empty_like(weight)
        levels[:, order] = torch.from_numpy(made)
        left = torch.from_numpy(rest) * step
    return levels, left


@loop
def _round_rows(
    exact: Any, upper: Any, harm: Any, bits: Any, row_classes: Any, column_classes: Any, levels: Any, left: Any
) -> None:
    """exact: weights in steps, in the order of rounding; one that is 0 stays so. upper: rows divided by their diagonal.
    harm: in bits. Fills levels, and left [rows], of the constant, in steps."""
    rows, columns = exact.shape
    now = np.empty(columns + 1)
    top = bits.shape[2] - 1
    for r in range(rows):
        now[:columns] = exact[r]
        now[columns] = 0.0
        for j in range(columns):
            value = now[j]
            size = abs(value)
            near = np.floor(size + 0.5) if exact[r, j] != 0.0 else 0.0
            best, least = near, np.inf
            for i in range(3):
                tried = near - i if i < 2 else 0.0
                if tried < 0 or (i == 2 and near < 2):
                    continue
                many = int(min(tried, top))
                cost = bits[row_classes[r], column_classes[j], many] + (size - tried) ** 2 * harm[r, j]
                if tried > top:
                    cost += 2 * np.log2(tried / top)
                if cost < least:
                    best, least = tried, cost
            level = best if value > 0 else 0.0 - best
            levels[r, j] = level
            error = value - level
            if error != 0.0:
                for k in range(j + 1, columns + 1):
                    now[k] -= error * upper[j, k]
        left[r] = now[columns]

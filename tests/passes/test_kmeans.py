"""k-means in one dimension."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from packlight.passes.codebooks.kmeans import INITS, cluster


def lloyd(values: np.ndarray, centroids: np.ndarray) -> float:
    """The squared error of the plain algorithm, every distance computed."""
    for _ in range(500):
        near = np.abs(values[:, None] - centroids).argmin(1)
        moved = np.array([values[near == i].mean() if (near == i).any() else c for i, c in enumerate(centroids)])
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return float(np.square(np.abs(values[:, None] - centroids).min(1)).sum())


def error(values: torch.Tensor, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return (values - table.gather(1, index.long())).square().sum(1)


@pytest.mark.parametrize("count", [2, 3, 16, 64])
def test_it_is_no_worse_than_the_plain_algorithm(count: int) -> None:
    values = torch.from_numpy(np.random.default_rng(count).standard_t(3, (5, 700)).astype(np.float32))
    table, index = cluster(values, count)
    for row, own in zip(values, error(values, table, index), strict=True):
        start = np.linspace(float(row.min()), float(row.max()), count)
        assert float(own) <= 1.0001 * lloyd(row.double().numpy(), start)
    assert torch.equal(index.long(), (values[..., None] - table[:, None]).abs().argmin(-1)), "the nearest of the table"


@pytest.mark.parametrize("init", INITS)
def test_rows_do_not_touch_one_another_and_runs_repeat(init: str) -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 300)).astype(np.float32))
    together = cluster(values, 8, init, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(together, cluster(values, 8, init, seed=5), strict=True))
    if init != "random":
        alone = [cluster(row[None], 8, init) for row in values]
        assert torch.allclose(together[0], torch.cat([t for t, _ in alone]))
    assert (error(values, *together) < 0.05 * values.square().sum(1)).all()


def test_a_case_for_paper() -> None:
    table, index = cluster(torch.tensor([[0.0, 1, 10]]), 2)
    assert table.tolist() == [[0.5, 10]] and index.tolist() == [[0, 0, 1]]
    table, _ = cluster(torch.tensor([[0.0, 1, 10]]), 2, weights=torch.tensor([[1.0, 3, 1]]))
    assert table.tolist() == [[0.75, 10]]


def test_fewer_values_than_entries_are_kept_exactly() -> None:
    values = torch.tensor([[3.0, -1, 3, 0.25, -1, 0.25]])
    table, index = cluster(values, 16)
    assert torch.equal(table.gather(1, index.long()), values)


def test_no_entry_is_wasted_on_long_tails() -> None:
    body = np.random.default_rng(2).normal(size=(1, 5000))
    values = torch.from_numpy(np.append(body, [[-40.0, 40.0]], 1).astype(np.float32))
    _, index = cluster(values, 16)
    assert len(index.unique()) == 16
    with_tails = error(values, *cluster(values, 16))
    assert float(with_tails) < 1.2 * float(error(values, *cluster(values, 16, "density")))


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("init", INITS)
def test_zeros_stay_zero_and_come_first(count: int, init: str) -> None:
    values = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 400)).astype(np.float32))
    values[values.abs() < 0.5] = 0
    values[2] = 0  # a channel that is gone
    table, index = cluster(values, count, init, zero=True)
    made = table.gather(1, index.long())
    assert not table[:, 0].any() and torch.equal(index[values == 0], torch.zeros_like(index[values == 0]))
    assert not made[values == 0].any()
    assert (made * values >= 0).all(), "no sign changes"
    if count == 8:
        assert (error(values, table, index)[:2] < 0.05 * values[:2].square().sum(1)).all()

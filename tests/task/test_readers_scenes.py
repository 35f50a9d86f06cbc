"""Composed scenes, on made-up items."""

from __future__ import annotations

import numpy as np

from packlight.task.readers.scenes import SIZE, _composed

ITEMS = np.zeros((10, 28, 28), np.uint8)
for _kind in range(10):
    ITEMS[_kind, 4:24, 4:24] = 100 + _kind


def test_labels_are_the_kinds_whose_pixels_show():
    scenes, labels = _composed(ITEMS, np.arange(10), 50, seed=0)
    assert scenes.shape == labels.shape == (50, SIZE, SIZE)
    assert (labels == np.where(scenes == 0, 0, scenes.astype(np.int64) - 99)).all()
    assert set(np.unique(labels)) == set(range(11))


def test_a_scene_depends_on_its_seed_and_number_alone():
    few, more = (_composed(ITEMS, np.arange(10), count, seed=1) for count in (5, 9))
    assert all((a == b[:5]).all() for a, b in zip(few, more, strict=True))
    assert (_composed(ITEMS, np.arange(10), 5, seed=2)[0] != few[0]).any()


def test_dark_pixels_of_an_item_show_what_is_behind():
    items = np.full((2, 28, 28), 10, np.uint8)
    scenes, labels = _composed(items, np.array([3, 4]), 20, seed=0)
    assert not labels.any() and not scenes.any()

"""Composed scenes: several Fashion-MNIST images on one canvas, to be segmented by kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.task.data import ArrayData
from packlight.task.readers.fashion import FASHION_CLASSES, fashion_mnist, image_task
from packlight.task.task import Task

Array = NDArray[Any]

SIZE = 56  # pixels a side
_COUNTS = {"train": 6000, "calibration": 256, "validation": 1000, "test": 2000}
_MOST = 4
_VISIBLE = 24  # grey level from which a pixel belongs to the item


def fashion_scenes() -> Task:
    """Which of eleven classes each pixel of a 56×56 image has: background, or one of Fashion-MNIST's ten.

    A scene holds one to four items of the same split of `fashion_mnist` at random places, later ones in front, made
    from seeds of its own, so it is the same everywhere. Needs the data of `fashion_mnist`. Metric: mean IoU.
    """
    source = fashion_mnist()
    parts = {}
    for number, (split, count) in enumerate(_COUNTS.items()):
        data = source.data(split)
        assert isinstance(data, ArrayData)
        assert data.targets is not None
        parts[split] = _composed(data.inputs[0][:, 0], data.targets, count, number)
    return image_task("fashion-scenes", "mean_iou", SIZE, ("background", *FASHION_CLASSES), **parts)


def _composed(items: Array, kinds: Array, count: int, seed: int) -> tuple[Array, Array]:
    """Scenes uint8 [count, SIZE, SIZE] and their labels int64 of the same shape, 0 = background."""
    scenes = np.zeros((count, SIZE, SIZE), np.uint8)
    labels = np.zeros((count, SIZE, SIZE), np.int64)
    height, width = items.shape[1:]
    for i in range(count):
        random = np.random.default_rng((seed, i))
        for item in random.integers(0, len(items), random.integers(1, _MOST + 1)):
            top, left = random.integers(0, SIZE - height + 1), random.integers(0, SIZE - width + 1)
            place = np.s_[i, top : top + height, left : left + width]
            visible = items[item] >= _VISIBLE
            scenes[place] = np.where(visible, items[item], scenes[place])
            labels[place] = np.where(visible, kinds[item] + 1, labels[place])
    return scenes, labels

"""Composed scenes: several Fashion-MNIST images on one canvas, to be segmented by kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.task.data import ArrayData
from packlight.task.readers.fashion import FASHION_CLASSES, FASHION_MEAN, FASHION_STD, fashion_mnist
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
    scale, shift = 1 / (255 * FASHION_STD), -FASHION_MEAN / FASHION_STD
    parts = {}
    for number, (split, count) in enumerate(_COUNTS.items()):
        data = source.data(split)
        assert isinstance(data, ArrayData)
        assert data.targets is not None
        images, labels = _composed(data.inputs[0][:, 0], data.targets, count, number)
        parts[split] = ArrayData(images[:, None], labels, scale=scale, shift=shift)
    preprocessing = {
        "input": f"{SIZE}×{SIZE} grey image, bytes 0..255, one channel", "scale": scale, "shift": shift,
        "formula": "x * scale + shift", "layout": "NCHW", "classes": ["background", *FASHION_CLASSES],
    }  # fmt: skip
    return Task(
        "fashion-scenes", "mean_iou", train=parts["train"], calibration=parts["calibration"],
        validation=parts["validation"], test=parts["test"], preprocessing=preprocessing,
    )  # fmt: skip


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

"""Handwritten digits of 8×8 pixels: small enough for unit tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.task.data import ArrayData
from packlight.task.readers.splits import Corpus, Sample, content_id
from packlight.task.task import Task


def digits() -> Task:
    """1,797 handwritten digits, 8×8 grey levels 0..16 (Alpaydin and Kaynak 1998, CC BY 4.0), from scikit-learn.

    Handed out as float32 [n, 1, 8, 8] in 0..1. Split 40 % test, 15 % validation, 45 % training.
    """
    corpus = digits_images()
    pixels = np.stack(corpus.items)
    parts: dict[str, Any] = {
        name: ArrayData(pixels[where], corpus.labels[where], scale=1 / 16) for name, where in corpus.parts.items()
    }
    facts = {"input": "8×8 grey image, levels 0..16, one channel", "scale": 1 / 16, "formula": "x * scale",
             "layout": "NCHW", "classes": [str(i) for i in range(10)]}  # fmt: skip
    return Task("digits", "accuracy", **parts, preprocessing=facts)


def digits_images() -> Corpus[NDArray[np.uint8]]:
    """The images as uint8 [1, 8, 8], and their splits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise PacklightError("the task digits needs scikit-learn: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.uint8).reshape(-1, 1, 8, 8)
    keys = [content_id(image.tobytes()) for image in images]
    return Corpus.of(map(Sample, keys, images, labels.tolist(), keys), "digits")

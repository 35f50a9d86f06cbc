"""Fashion-MNIST, whole and as the small part inside the package."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.task.data import ArrayData
from packlight.task.readers.places import find_folder
from packlight.task.readers.splits import content_id, distinct
from packlight.task.task import Task

Array = NDArray[Any]

# Mean and standard deviation of the Fashion-MNIST training pixels, in 0..1.
FASHION_MEAN, FASHION_STD = 0.2860, 0.3530
FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                   "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")  # fmt: skip
_VALIDATION, _CALIBRATION = 5000, 512


def fashion_mnist() -> Task:
    """Fashion-MNIST (Xiao et al. 2017, MIT licence): 28×28 grey images of ten kinds of clothing.

    Looks in $PACKLIGHT_DATA, ./.data and the system's /usr/share/datasets for `fashion-mnist/`. The 10,000
    test images are the authors'. Training images that also occur in the test set, or earlier in the training
    set, are dropped (by content hash); of the rest, in the order of their hashes, the first 5,000 are
    validation, the next 512 calibration (also in training), and all but validation are for training.
    """
    folder = find_folder("fashion-mnist")
    train_x, train_y = _idx(folder, "train-images-idx3", 3), _idx(folder, "train-labels-idx1", 1)
    test_x, test_y = _idx(folder, "t10k-images-idx3", 3), _idx(folder, "t10k-labels-idx1", 1)
    order = distinct(_ids(train_x), exclude=_ids(test_x))
    validation, train = order[:_VALIDATION], order[_VALIDATION:]
    return _fashion_task(
        "fashion-mnist",
        train=(train_x[train], train_y[train]),
        calibration=(train_x[train[:_CALIBRATION]], train_y[train[:_CALIBRATION]]),
        validation=(train_x[validation], train_y[validation]),
        test=(test_x, test_y),
    )


def fashion_mnist_demo() -> Task:
    """The part of Fashion-MNIST that ships inside the package: 2,000 test, 1,000 validation, 512 calibration.

    Cut by `scripts/make_demo_data.py` from the splits of `fashion_mnist`; training uses the calibration part.
    """
    try:
        with resources.files("packlight.data").joinpath("fashion_mnist_demo.npz").open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            parts = {s: (arrays[f"{s}_x"], arrays[f"{s}_y"]) for s in ("calibration", "validation", "test")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise PacklightError(
            f"packlight's demo data is missing or damaged ({error}); install the package again"
        ) from error
    return _fashion_task("fashion-mnist-demo", train=parts["calibration"], **parts)


def _fashion_task(name: str, **parts: tuple[Array, Array]) -> Task:
    return image_task(name, "accuracy", 28, FASHION_CLASSES, augment=shift_and_flip, **parts)


def image_task(
    name: str, metric: str, side: int, classes: Sequence[str], augment: Any = None, **parts: tuple[Array, Array]
) -> Task:
    """A task on grey images of Fashion-MNIST's brightness.

    parts: by split, images uint8 [n, side, side] and their targets; the network gets [n, 1, side, side], standardised.
    """
    scale, shift = 1 / (255 * FASHION_STD), -FASHION_MEAN / FASHION_STD
    data: dict[str, Any] = {
        split: ArrayData(x[:, None], y.astype(np.int64), scale=scale, shift=shift) for split, (x, y) in parts.items()
    }
    facts = {
        "input": f"{side}×{side} grey image, bytes 0..255, one channel", "scale": scale, "shift": shift,
        "formula": "x * scale + shift", "layout": "NCHW", "classes": list(classes),
    }  # fmt: skip
    return Task(name, metric, **data, augment=augment, preprocessing=facts)


def shift_and_flip(images: Any, generator: Any, pixels: int = 2) -> Any:
    """Each image [n, c, h, w] moved by up to `pixels` either way and mirrored half of the time."""
    import torch
    from torch.nn.functional import pad

    n, _, h, w = images.shape
    padded = pad(images, (pixels,) * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n), generator=generator)
    rows, columns = torch.arange(h) + dy[:, None], torch.arange(w) + dx[:, None]
    flip = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(n)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _idx(folder: Path, stem: str, axes: int) -> Array:
    """An IDX file of unsigned bytes (the MNIST format): magic, sizes as big-endian int32, data."""
    path = folder / f"{stem}-ubyte.gz"
    try:
        with gzip.open(path, "rb") as file:
            magic = file.read(4)
            if magic != b"\0\0\x08" + bytes([axes]):
                raise PacklightError(f"{path} is no IDX file of bytes with {axes} axes")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            size = math.prod(shape)
            if size > 1 << 30:
                raise PacklightError(f"{path} claims {size:,} bytes, more than any data set of this kind")
            content = file.read(size + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise PacklightError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) != size:
        raise PacklightError(f"{path} is damaged: {len(content)} bytes of data, its header says {size}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _ids(images: Array) -> list[str]:
    return [content_id(image.tobytes()) for image in images]

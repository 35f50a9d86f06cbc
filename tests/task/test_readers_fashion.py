"""Fashion-MNIST: whole files are read, damaged ones refused."""

from __future__ import annotations

import gzip
import struct
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from packlight.errors import PacklightError
from packlight.task.readers import fashion_mnist, fashion_mnist_demo, shift_and_flip
from packlight.task.readers.places import SYSTEM

FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """5,700 training images of which 30 are copies of test images and 20 of one another; 40 test images."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 4, 4), np.uint8) for n in (5700, 40))
    train[100:130] = test[:30]
    train[200:220] = train[300:320]
    arrays = (train, np.arange(5700) % 10, test, np.arange(40) % 10)
    place = tmp_path / "fashion-mnist"
    place.mkdir()
    for name, array in zip(FILES, arrays, strict=True):
        (place / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array.astype(np.uint8)), 1))
    monkeypatch.setenv("PACKLIGHT_DATA", str(tmp_path))
    return place


def pictures(task, split: str) -> set[bytes]:
    return {x.tobytes() for x in task.data(split).inputs[0]}


def test_splits_share_no_image(folder):
    task = fashion_mnist()
    assert {s: len(task.data(s)) for s in ("train", "validation", "calibration", "test")} == \
        {"train": 650, "validation": 5000, "calibration": 512, "test": 40}  # fmt: skip
    assert pictures(task, "test").isdisjoint(pictures(task, "train") | pictures(task, "validation"))
    assert pictures(task, "validation").isdisjoint(pictures(task, "train"))
    assert pictures(task, "calibration") <= pictures(task, "train")
    assert len(pictures(task, "train")) == 650


def test_labels_stay_with_their_images(folder):
    rng = np.random.default_rng(0)
    label = {
        x.tobytes(): i % 10 for i, x in enumerate(rng.integers(0, 256, (5700, 4, 4), np.uint8)) if not 100 <= i < 320
    }
    data = fashion_mnist().data("train")
    checked = [
        (label[x.tobytes()], y) for x, y in zip(data.inputs[0], data.targets, strict=True) if x.tobytes() in label
    ]
    assert len(checked) > 500
    assert all(a == b for a, b in checked)


def test_images_are_handed_out_normalised(folder):
    batch = next(fashion_mnist().data("test").batches(40))
    raw = fashion_mnist().data("test").inputs[0].astype(np.float64)
    assert batch.inputs[0].shape == (40, 1, 4, 4)
    # float32 scale and shift, each good to 1e-7 of values up to 3
    assert np.allclose(batch.inputs[0], (raw / 255 - 0.2860) / 0.3530, atol=1e-5)


DAMAGE = {
    "empty": lambda b: b"",
    "not gzip": lambda b: b"hello, I am a web page",
    "cut gzip": lambda b: b[: len(b) // 2],
    "flipped byte inside": lambda b: b[:60] + bytes([b[60] ^ 255]) + b[61:],
    "other magic": lambda b: gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(b)[4:]),
    "other number of axes": lambda b: gzip.compress(b"\0\0\x08\x02" + gzip.decompress(b)[4:]),
    "cut data": lambda b: gzip.compress(gzip.decompress(b)[:-7]),
    "more data": lambda b: gzip.compress(gzip.decompress(b) + b"\0"),
    "cut header": lambda b: gzip.compress(gzip.decompress(b)[:9]),
    "absurd size": lambda b: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_one_line_that_names_it(case, folder):
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(DAMAGE[case](path.read_bytes()))
    with pytest.raises(PacklightError, match=r"t10k-images-idx3-ubyte\.gz") as error:
        fashion_mnist()
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line_that_names_it(folder):
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(PacklightError, match=r"cannot read .*train-labels-idx1-ubyte.gz: No such file"):
        fashion_mnist()


def test_images_and_labels_of_unequal_number_are_refused(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(39, np.uint8))))
    with pytest.raises(PacklightError, match="equal lengths, got 40, 39"):
        fashion_mnist()


def test_a_missing_folder_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKLIGHT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SYSTEM, "fashion-mnist", str(tmp_path / "none"))
    with pytest.raises(
        PacklightError, match=r"no folder 'fashion-mnist' in \$PACKLIGHT_DATA, ./.data or .*get_data.sh"
    ):
        fashion_mnist()


def test_the_demos_data_are_in_the_package():
    task = fashion_mnist_demo()
    assert {s: len(task.data(s)) for s in ("calibration", "validation", "test")} == \
        {"calibration": 512, "validation": 1000, "test": 2000}  # fmt: skip
    assert task.data("test").inputs[0].shape == (2000, 1, 28, 28)
    assert set(task.data("test").targets) == set(range(10))
    assert pictures(task, "test").isdisjoint(pictures(task, "validation") | pictures(task, "calibration"))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no zip", "cut"], ids=["missing", "empty", "no zip", "cut"])
def test_damaged_demo_data_are_one_line(content, tmp_path, monkeypatch):
    if content == "cut":
        content = resources.files("packlight.data").joinpath("fashion_mnist_demo.npz").read_bytes()[:5000]
    if content is not None:
        (tmp_path / "fashion_mnist_demo.npz").write_bytes(content)
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(PacklightError, match="packlight's demo data is missing or damaged") as error:
        fashion_mnist_demo()
    assert "\n" not in str(error.value)


# augmentation


def test_augmentation_moves_and_mirrors_whole_images():
    images = torch.zeros(64, 1, 9, 9)
    images[:, :, 4, 4] = 1
    moved = shift_and_flip(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert moved.sum((1, 2, 3)).tolist() == [1.0] * 64
    places = moved.flatten(1).argmax(1)
    rows, columns = places // 9, places % 9
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}


def test_augmentation_mirrors_about_half():
    images = torch.arange(9.0).expand(400, 1, 9, 9)
    mirrored = (shift_and_flip(images, torch.Generator().manual_seed(0), pixels=0)[:, 0, 0, 0] == 8).float().mean()
    assert 0.4 < mirrored < 0.6  # 4 standard deviations of 400 coin tosses


def test_augmentation_follows_the_generator():
    images = torch.randn(8, 3, 6, 6)
    one, same, other = (shift_and_flip(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)

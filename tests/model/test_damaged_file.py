"""Files that are something else, or that something damaged: refused in one line, nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from forge import PROOF, forged, parts, refused

from packlight.errors import PacklightError
from packlight.model import Model

pytestmark = pytest.mark.usefixtures("nothing_is_executed")


class Bomb:
    def __reduce__(self):
        return os.system, (f"touch {PROOF}",)


@pytest.mark.parametrize(
    "make", [lambda f: pickle.dump(Bomb(), f), lambda f: torch.save(Bomb(), f)], ids=["pickle", "torch.save"]
)
def test_a_pickle_with_our_suffix_is_refused(make):
    with open("forged.plm", "wb") as file:
        make(file)
    refused(Path("forged.plm"), "is no packlight model or is damaged")


@pytest.mark.parametrize("size", [0, 2**20, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_too_much_is_refused(size, good):
    Path("forged.plm").write_bytes(struct.pack("<Q", size) + good.read_bytes()[8:])
    refused(Path("forged.plm"), "is no packlight model or is damaged")


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 8, b"{}", b"PK\x03\x04" + b"\0" * 100], ids=repr)
def test_a_file_of_something_else_is_refused(content):
    Path("forged.plm").write_bytes(content)
    refused(Path("forged.plm"), "is no packlight model or is damaged|without a packlight graph")


def test_a_file_cut_short_anywhere_is_refused(good):
    content = good.read_bytes()
    lengths = {*range(32), *range(32, len(content), len(content) // 80), len(content) - 1}
    for length in sorted(lengths):
        Path("cut.plm").write_bytes(content[:length])
        refused(Path("cut.plm"), "is no packlight model or is damaged")


def test_a_file_with_bytes_behind_it_is_refused(good):
    Path("long.plm").write_bytes(good.read_bytes() + b"\0")
    refused(Path("long.plm"), "is no packlight model or is damaged")


def load_all(files: Iterable[bytes | Path]) -> tuple[list[Model], list[str]]:
    """The models that load and the messages of those that do not."""
    models, messages = [], []
    for file in files:
        path = file if isinstance(file, Path) else Path("damaged.plm")
        if isinstance(file, bytes):
            path.write_bytes(file)
        try:
            models.append(Model.load(path))
        except PacklightError as error:
            messages.append(str(error))
    return models, messages


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_give_a_model_or_one_line(seed, good):
    content = good.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    dice = random.Random(seed)

    def damaged(i: int) -> bytes:
        copy = bytearray(content)
        copy[dice.randrange(header if i % 4 else len(content))] ^= 1 << dice.randrange(8)
        return bytes(copy)

    models, messages = load_all(damaged(i) for i in range(40))
    assert messages
    assert not any("\n" in m for m in messages)
    assert all(len(m.flat(*m.example_inputs())) == 1 for m in models)


@pytest.mark.parametrize("seed", range(2))
def test_a_document_with_pieces_swapped_gives_a_model_or_one_line(seed, good):
    dice = random.Random(seed)

    def swapped() -> Iterator[Path]:
        for _ in range(30):
            document, tensors = parts(good)
            (a, i), (b, j) = dice.sample(list(_spots(document)), 2)
            a[i], b[j] = b[j], a[i]
            with suppress(ValueError):  # swapped into itself: no file can hold that
                yield forged(json.dumps(document), tensors)

    _, messages = load_all(swapped())
    assert messages
    assert not any("\n" in m for m in messages)


def _spots(value: Any):
    """Every place in a JSON document, as (container, key)."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(item, dict | list):
            yield from _spots(item)

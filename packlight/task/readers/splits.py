"""Splits fixed by content: the same samples land in the same part on every machine, in whatever order files are read.

A sample's id is the sha256 of what it holds. Copies are dropped before anything is split. Groups (a syllable, a
document) are put in the order of sha256(salt + group) and handed out whole: to test until it has its share of the
samples, then to validation, the rest to training. Inside a part samples stand in the order of their ids, and
calibration is the start of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError

CALIBRATION = 256
T = TypeVar("T")
Positions = NDArray[np.int64]


def content_id(content: bytes) -> str:
    """Hex sha256 of a sample's content."""
    return sha256(content).hexdigest()


def text_id(text: str) -> str:
    """The content_id of a text, blind to case and to the amount of white space."""
    return content_id(" ".join(text.lower().split()).encode())


def distinct(ids: Sequence[str], exclude: Iterable[str] = ()) -> Positions:
    """Position of the first sample of each id that is not in `exclude`, in the order of ids."""
    seen, first = set(exclude), dict[str, int]()
    for i, key in enumerate(ids):
        if key not in seen:
            first.setdefault(key, i)
    return np.array([first[key] for key in sorted(first)], np.int64)


def split(groups: Sequence[str], shares: Mapping[str, float], salt: str = "") -> dict[str, Positions]:
    """Positions of each part, the named ones in order and "train", which gets the rest; ascending inside a part.

    groups: the group of each sample, kept whole. shares: part → its share of the samples in (0, 1), reached or
    passed by less than one group, as long as there are groups left.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    order = sorted(members, key=lambda group: sha256(f"{salt}{group}".encode(errors="surrogateescape")).digest())
    parts: dict[str, list[int]] = {name: [] for name in (*shares, "train")}
    open_parts = list(shares)
    for group in order:
        while open_parts and len(parts[open_parts[0]]) >= shares[open_parts[0]] * len(groups):
            open_parts.pop(0)
        parts[open_parts[0] if open_parts else "train"] += members[group]
    return {name: np.array(sorted(positions), np.int64) for name, positions in parts.items()}


@dataclass(frozen=True)
class Sample(Generic[T]):
    """One sample as read. id: what makes two samples copies. group: what must not be torn apart."""

    id: str
    item: T
    label: int
    group: str


@dataclass(frozen=True)
class Corpus(Generic[T]):
    """Distinct samples in the order of their ids, and the positions of each split among them.

    ids: hex sha256 each. labels: int64 [n]. parts: "train", "validation", "test", and "calibration" ⊂ "train".
    """

    ids: tuple[str, ...]
    items: tuple[T, ...]
    labels: NDArray[np.int64]
    parts: Mapping[str, Positions]

    @staticmethod
    def of(samples: Iterable[Sample[T]], what: str, test: float = 0.4, validation: float = 0.15) -> Corpus[T]:
        """Drop copies and split. what: the data set's name, which is also the salt of the split.

        A content that bears two labels is dropped altogether. test, validation: shares of the samples. Raises
        PacklightError where a part would be empty.
        """
        read = list(samples)
        labels: dict[str, set[int]] = {}
        for sample in read:
            labels.setdefault(sample.id, set()).add(sample.label)
        disputed = [key for key, given in labels.items() if len(given) > 1]
        kept = [read[i] for i in distinct([sample.id for sample in read], exclude=disputed)]
        parts = split([sample.group for sample in kept], {"test": test, "validation": validation}, salt=what)
        empty = [name for name, positions in parts.items() if not len(positions)]
        if empty:
            raise PacklightError(f"{what}: {len(kept)} distinct samples are too few for a {empty[0]} split")
        parts["calibration"] = parts["train"][:CALIBRATION]
        return Corpus(
            tuple(s.id for s in kept), tuple(s.item for s in kept), np.array([s.label for s in kept], np.int64), parts
        )

    def manifest(self) -> dict[str, Any]:
        """Part → its number of samples, samples a class, and the sha256 of its ids."""
        return {
            name: {
                "samples": len(positions),
                "classes": np.bincount(self.labels[positions]).tolist(),
                "sha256": content_id("".join(self.ids[i] for i in positions).encode()),
            }
            for name, positions in sorted(self.parts.items())
        }

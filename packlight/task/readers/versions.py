"""Which texts are versions of one another: an article that was updated, a mail sent twice with another greeting.

A and B are the sets of five-word sequences (shingles) in the first 300 words of two texts. The texts are versions when
their resemblance |A and B| / |A or B| is at least 0.4 (Broder 1997, On the resemblance and containment of documents,
sections 2 and 3), when they open with the same 100 characters (a network that reads the first 128 tokens may see no
more of them), or when both are versions of a third. Only pairs that share one of their 16 smallest shingle hashes
are compared, and each text with at most 20 others a hash, which bounds the work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from heapq import nsmallest
from zlib import crc32

_WORD = re.compile(r"[^\W\d_]+")
_WORDS, _SHINGLE, _SKETCH, _COMPARED = 300, 5, 16, 20
_RESEMBLANCE, _OPENING = 0.4, 100


def versions(texts: Sequence[str]) -> list[int]:
    """For each text the position of one that stands for all its versions: equal numbers, one group."""
    shingles = [_shingles(text) for text in texts]
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    holders: dict[int, list[int]] = {}
    openings: dict[str, int] = {}
    for i, mine in enumerate(shingles):
        parent[i] = root(openings.setdefault(_opening(texts[i]), i))
        for key in nsmallest(_SKETCH, mine):
            others = holders.setdefault(key, [])
            for j in others[-_COMPARED:]:
                if root(i) != root(j) and _resemblance(mine, shingles[j]) >= _RESEMBLANCE:
                    parent[root(i)] = root(j)
            others.append(i)
    return [root(i) for i in range(len(texts))]


def _opening(text: str) -> str:
    return " ".join(text[: 50 * _OPENING].lower().split())[:_OPENING]


def _shingles(text: str) -> frozenset[int]:
    words = _WORD.findall(text[: 20 * _WORDS].lower())[:_WORDS]
    starts = range(max(1, len(words) - _SHINGLE + 1))
    return frozenset(crc32(" ".join(words[i : i + _SHINGLE]).encode()) for i in starts)


def _resemblance(a: frozenset[int], b: frozenset[int]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)

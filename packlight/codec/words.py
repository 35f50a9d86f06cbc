"""Floating-point numbers kept to the last bit: sign, exponent and the first digits of the mantissa are predicted, the
digits after those are noise in a trained network and are stored as they are, unless they prove to be none.

After the observation that exponents of trained weights carry two to three bits of information (Hershcovitch et al.
2024, arXiv 2411.05239; Zhang et al. 2025, arXiv 2504.11651). docs/plt.md, section 8, is the exact description.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from packlight.codec.binary import EVEN, READ, WEIGHT, WRITE, code_mixed, finish, fresh, given, start
from packlight.codec.fields import Fields, whole
from packlight.loops import loop, numbers, octets

_PLANE = 16
_TABLE = 1 << 16
_MIX = 0x2545F491


@loop
def _code_words(
    io: Any, data: Any, words: Any, bits: int, leading: int,
    chances: Any, weights: Any, slots: Any,
) -> int:  # fmt: skip
    start(io, data)
    before = 0
    for at in range(len(words)):
        word = words[at]
        node = 1
        for i in range(bits):
            slots[0] = node & (_TABLE - 1)
            mixed = ((node * _MIX) & 0xFFFFFFFF) ^ ((before + 1) * 0x9E3779B1)
            slots[1] = _TABLE + ((mixed >> 7) & (_TABLE - 1))
            slots[2] = 2 * _TABLE + i
            bit = code_mixed(io, data, chances, slots, 3, weights, 3 * i, (word >> (bits - 1 - i)) & 1)
            node = 2 * node + bit
        word = node - (1 << bits)
        words[at] = word
        before = (word & ((1 << (bits - 1)) - 1)) >> (bits - leading)
    return finish(io, data) if io[0] else 0


def _model(bits: int) -> tuple[Any, ...]:
    size = 2 * _TABLE + bits
    weights = np.full(3 * bits, WEIGHT // 3)
    return numbers(np.full(size, EVEN)), numbers(weights), numbers(np.zeros(6))


def _write(words: np.ndarray, bits: int, leading: int) -> bytes:
    """Unsigned numbers [n] of so many bits, 1 to 16, as coded bytes. leading: their first bits, 1 to `bits`, of which
    those after the very first tell something of the next number."""
    room = octets(3 * len(words) + 64)
    while True:
        length = _code_words(fresh(WRITE, len(room)), room, numbers(words), bits, leading, *_model(bits))
        if length <= len(room):
            return bytes(room[:length])
        room = octets(length)


def _read(data: bytes, count: int, bits: int, leading: int) -> np.ndarray:
    """The int64 [count] that `_write` coded; from other data, some numbers of as many bits, or Damaged."""
    words = numbers(np.zeros(count))
    _code_words(fresh(READ, len(data)), given(data), words, bits, leading, *_model(bits))
    return np.asarray(words, np.int64)


class Words(Protocol):
    """A way to code floats [n] given as the unsigned integers that their bits spell. exponent: its bits, after the
    sign."""

    def write(self, bits: np.ndarray, exponent: int) -> bytes: ...

    def read(self, fields: Fields, count: int, kind: Any, exponent: int) -> np.ndarray: ...


class SmallWords:
    """The first 16 bits predicted; the others, 16 at a time, as they are, or predicted where they are no noise."""

    def write(self, bits: np.ndarray, exponent: int) -> bytes:
        low = max(0, 8 * bits.itemsize - _PLANE)
        wide = bits.astype(np.uint64)
        top = _write((wide >> np.uint64(low)).astype(np.int64), 8 * bits.itemsize - low, 1 + exponent)
        made = whole(len(top)) + top
        for i in range(0, low, _PLANE):
            plane = ((wide >> np.uint64(i)) & np.uint64(0xFFFF)).astype("<u2")
            coded = _write(plane.astype(np.int64), _PLANE, 1) if _has_structure(plane) else b""
            made += whole(len(coded)) + (coded or plane.tobytes())
        return made

    def read(self, fields: Fields, count: int, kind: Any, exponent: int) -> np.ndarray:
        size = 8 * np.dtype(kind).itemsize
        low = max(0, size - _PLANE)
        wide = _read(fields.take(fields.whole()), count, size - low, 1 + exponent).astype(np.uint64) << np.uint64(low)
        for i in range(0, low, _PLANE):
            length = fields.whole()
            if length:
                plane = _read(fields.take(length), count, _PLANE, 1)
            else:
                plane = np.frombuffer(fields.take(2 * count), "<u2")
            wide |= plane.astype(np.uint64) << np.uint64(i)
        return wide.astype(kind)


def _has_structure(plane: np.ndarray) -> bool:
    """Whether the low bits of mantissas are other than noise: fewer different values than chance would give."""
    part = plane[:: max(1, len(plane) // 4096)][:4096]
    return len(np.unique(part)) < 0.9 * 65536 * -np.expm1(-len(part) / 65536)

"""Levels under fixed frequencies: every level as a symbol, or, where most are 0, how many zeros stand before each that
is not, and its value (Han et al. 2016, arXiv 1510.00149, section 2), whichever is shorter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from packlight.codec.fields import Damaged, Fields, signed, whole
from packlight.codec.levels import Shape
from packlight.codec.rans import TOTAL, frequencies_of, read_symbols, write_symbols

_DENSE, _GAPS = 0, 1
_LONGEST = 255  # zeros that one gap counts; a gap of as many has no value after it
_NARROW = 1 << 30  # beyond which values take 64 bits in memory
_ESCAPE_FROM = TOTAL // 2  # different levels beyond which the rare ones are written out


def write_fast(levels: np.ndarray, shapes: Sequence[Shape]) -> bytes:
    """Coded bytes of matrices one after another; arguments as of `packlight.codec.levels.write_levels`."""
    made, at = b"", 0
    for rows, columns, _ in shapes:
        part = levels[at : at + rows * columns]
        at += rows * columns
        dense = bytes([_DENSE]) + _write(part)
        made += min((dense, bytes([_GAPS]) + _write_gaps(part)), key=len) if (part == 0).mean() > 0.5 else dense
    return made


def read_fast(data: bytes, shapes: Sequence[Shape]) -> tuple[list[np.ndarray], np.ndarray]:
    """The int32 or int64 [rows · columns] of each matrix that `write_fast` coded, and float64 [matrices], the bits that
    each took. Raises Damaged."""
    fields, made, costs = Fields(data), [], []
    for rows, columns, _ in shapes:
        start = fields.at
        how = fields.take(1)[0]
        if how > _GAPS:
            raise Damaged(f"unknown way {how} to code levels")
        made.append((_read_gaps if how == _GAPS else _read)(fields, rows * columns))
        costs.append(8.0 * (fields.at - start))
    if fields.left:
        raise Damaged(f"{fields.left:,} bytes stand after its last matrix")
    return made, np.array(costs)


class FastWords:
    """The sign moved behind the mantissa, so that the first byte is the exponent or begins with it: that byte under
    fixed frequencies, the others as they are."""

    def write(self, bits: np.ndarray, exponent: int) -> bytes:
        size = 8 * bits.itemsize
        turned = bits << 1 | bits >> (size - 1)
        made = _write((turned >> (size - 8)).astype(np.int64))
        rest = turned[:, None].view(np.uint8)[:, : bits.itemsize - 1] if len(bits) else b""
        return made + bytes(rest)

    def read(self, fields: Fields, count: int, kind: Any, exponent: int) -> np.ndarray:
        size = np.dtype(kind).itemsize
        top = _read(fields, count)
        if count and not 0 <= top.min() <= top.max() < 256:
            raise Damaged("an exponent in it takes more than a byte")
        octets = np.empty((count, size), np.uint8)
        octets[:, -1] = top
        octets[:, :-1] = np.frombuffer(fields.take(count * (size - 1)), np.uint8).reshape(count, size - 1)
        turned = octets.view(kind).reshape(count)
        made: np.ndarray = turned >> 1 | turned << (8 * size - 1)
        return made


def _write_gaps(levels: np.ndarray) -> bytes:
    places = np.flatnonzero(levels)
    gaps = np.diff(places, prepend=-1) - 1
    fillers = gaps // _LONGEST
    steps = np.full(int((fillers + 1).sum()), _LONGEST)
    steps[np.cumsum(fillers + 1) - 1] = gaps % _LONGEST
    return whole(len(places)) + whole(len(steps)) + _write(steps) + _write(levels[places])


def _read_gaps(fields: Fields, count: int) -> np.ndarray:
    many = fields.whole(count)
    steps = _read(fields, fields.whole(count))
    values = _read(fields, many)
    if not ((steps >= 0) & (steps <= _LONGEST)).all():  # sums of others may overflow into what looks right
        raise Damaged("its gaps do not fit")
    ends = np.flatnonzero(steps < _LONGEST)
    places = np.cumsum(steps)[ends] + np.arange(len(ends))
    if len(ends) != many or (many and not 0 <= places[0] <= places[-1] < count):
        raise Damaged("its gaps do not fit")
    made = np.zeros(count, values.dtype)
    made[places] = values
    return made


def _write(levels: np.ndarray) -> bytes:
    """Alphabet, frequencies, symbols, and what was too rare for the alphabet."""
    values, place, counts = np.unique(levels, return_inverse=True, return_counts=True)
    rare = np.zeros(len(values), bool)
    if len(values) > _ESCAPE_FROM:
        rare[np.argsort(counts, kind="stable")[: len(values) - _ESCAPE_FROM]] = True
    kept = values[~rare]
    symbol = np.full(len(values), len(kept))
    symbol[~rare] = np.arange(len(kept))
    symbols = symbol[place]
    escaped = levels[symbols == len(kept)]
    tally = np.append(counts[~rare], [len(escaped)] if len(escaped) else [])
    frequencies = frequencies_of(tally) if len(tally) else np.zeros(0, np.int64)
    coded = write_symbols(symbols, frequencies) if len(tally) > 1 else b""
    made = whole(len(kept)) + whole(len(escaped))
    made += b"".join(signed(int(d)) for d in np.diff(kept, prepend=0))
    made += b"".join(whole(int(f)) for f in frequencies)
    return made + whole(len(coded)) + coded + b"".join(signed(int(v)) for v in escaped)


def _read(fields: Fields, count: int) -> np.ndarray:
    many, escapes = fields.whole(TOTAL), fields.whole(count)
    kept = np.cumsum([fields.signed(1 << 40) for _ in range(many)], dtype=np.int64)
    frequencies = np.array([fields.whole(TOTAL) for _ in range(many + (escapes > 0))], np.int64)
    if len(frequencies) and (frequencies.sum() != TOTAL or (frequencies < 1).any()):
        raise Damaged("its frequencies do not add up")
    coded = fields.take(fields.whole())
    if not len(frequencies):
        if count:
            raise Damaged("an empty alphabet")
        return np.zeros(0, np.int64)
    symbols = read_symbols(coded, count, frequencies) if len(frequencies) > 1 else np.zeros(count, np.uint16)
    where = np.flatnonzero(symbols == many) if escapes else np.zeros(0, np.int64)
    if len(where) != escapes:
        raise Damaged("its escapes do not fit")
    spelt = np.array([fields.signed(1 << 40) for _ in range(escapes)], np.int64)
    narrow = all(-_NARROW <= v < _NARROW for part in (kept, spelt) for v in (part.min(initial=0), part.max(initial=0)))
    made: np.ndarray = np.append(kept, 0).astype(np.int32 if narrow else np.int64)[symbols]
    made[where] = spelt
    return made

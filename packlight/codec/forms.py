"""How a tensor becomes integers, or floating-point words, and comes back bit by bit the same.

ramp      integers that rise by the same step
levels    integers, less an offset
steps     float32 that are multiples of one step
table     a few different values: the number of each, counted from the one nearest 0
sparse    floats of which many are 0: which of them, and the words of the others
words     floats of many values
raw       bytes as they are
waves     float32 over pictures that are sums of multiples of one step of cosine waves
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from packlight.codec.fields import Damaged, Fields, signed, whole
from packlight.codec.levels import Shape
from packlight.codec.words import Words
from packlight.cosines import LARGEST, LONGEST, Waves

_MOST_ENTRIES = 4096
_SPARSE = 0.05
_MOST_STEPS = 1 << 24
_DIVISORS = 8  # of the least gap between values that may be their step
_NOISE = 3e-7  # of the largest wave, what rounding to float32 may have left of one that is not there
_REMAINDERS, _SMALLEST = 3, 4096  # rounds of gaps between waves that look for their step, and how many are looked at
_GLANCE = 512  # elements that must be such sums for the others to be looked at


class Kind(IntEnum):
    RAMP, LEVELS, STEPS, TABLE, SPARSE, WORDS, RAW, WAVES = range(8)

    @property
    def has_levels(self) -> bool:
        return self in (Kind.LEVELS, Kind.STEPS, Kind.TABLE, Kind.SPARSE, Kind.WAVES)


@dataclass(frozen=True)
class Type:
    """An element type: numpy's type of its bits, and where they are those of a float: how many come after the sign."""

    bits: Any
    exponent: int = 0
    signed: bool = True

    @property
    def bytes(self) -> int:
        return int(np.dtype(self.bits).itemsize)

    @property
    def is_float(self) -> bool:
        return self.exponent > 0


TYPES = {
    "float32": Type("<u4", 8), "float16": Type("<u2", 5), "bfloat16": Type("<u2", 8), "float64": Type("<u8", 11),
    "float8_e4m3fn": Type("u1", 4), "float8_e5m2": Type("u1", 5),
    "int8": Type("i1"), "uint8": Type("u1"), "int16": Type("<i2"), "int32": Type("<i4"), "int64": Type("<i8"),
    "bool": Type("u1"),
}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A tensor as it is coded. head: what its decoder must know first. levels: int64 [elements] or None. tail: bytes
    that are coded already. picture: elements that its columns lie together in, where its sizes do not say it."""

    kind: Kind
    head: bytes = b""
    levels: np.ndarray | None = field(default=None, repr=False)
    tail: bytes = field(default=b"", repr=False)
    picture: int = 0


def shape_of(sizes: tuple[int, ...], picture: int = 0) -> Shape:
    """Rows (output channels), columns and kernel of a tensor's sizes; a vector is one row. picture: the kernel, where
    it is known otherwise."""
    if 0 in sizes:
        return 0, 0, 1
    if len(sizes) < 2:
        return 1, int(np.prod(sizes)), 1
    kernel = max(1, int(np.prod(sizes[2:])))
    return sizes[0], sizes[1] * kernel, picture or kernel


def form_of(bits: np.ndarray, dtype: str, sizes: tuple[int, ...], words: Words) -> Form:
    """The form of a tensor's elements, given as the integers [n] that their bits spell. words: that codes floats of
    many values."""
    kind = TYPES[dtype]
    if not len(bits):
        return Form(Kind.RAW)
    made = _float_form(bits, dtype, sizes, words) if kind.is_float else _integer_form(bits)
    return made if len(made.tail) < bits.nbytes or made.levels is not None else Form(Kind.RAW, tail=bits.tobytes())


def _integer_form(bits: np.ndarray) -> Form:
    values = bits.astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if max(high, -low) >= 1 << 60:
        return Form(Kind.RAW, tail=bits.tobytes())
    first, last = int(values[0]), int(values[-1])
    step, rest = divmod(last - first, max(1, len(values) - 1))
    if rest == 0 and (values == first + step * np.arange(len(values))).all():
        return Form(Kind.RAMP, signed(first) + signed(step))
    offset = 0 if low <= 0 <= high and low != 0 else int(np.median(values))
    if max(high - offset, offset - low) >= 1 << 32:
        return Form(Kind.RAW, tail=bits.tobytes())
    return Form(Kind.LEVELS, signed(offset), values - offset)


def _float_form(bits: np.ndarray, dtype: str, sizes: tuple[int, ...], words: Words) -> Form:
    kind = TYPES[dtype]
    if len(np.unique(bits[:: max(1, len(bits) // 65536)])) <= _MOST_ENTRIES:
        entries, place = np.unique(bits, return_inverse=True)
        if len(entries) <= _MOST_ENTRIES:
            if dtype == "float32" and (step := _step(entries)) is not None:
                return Form(Kind.STEPS, step.tobytes(), np.rint(bits.view(np.float32) / step).astype(np.int64))
            if dtype == "float32" and (form := _waves(bits, sizes)) is not None:
                return form
            if len(entries) * (1 + 4 * kind.bytes) <= bits.nbytes + 8:
                return _table(entries, place, kind)
    if dtype == "float32" and (form := _waves(bits, sizes)) is not None:
        return form
    zero = bits == 0
    if zero.mean() >= _SPARSE:
        return Form(Kind.SPARSE, b"", (~zero).astype(np.int64), words.write(bits[~zero], kind.exponent))
    return Form(Kind.WORDS, tail=words.write(bits, kind.exponent))


def _step(entries: np.ndarray) -> np.float32 | None:
    """The float32 that all of some different float32, given as their bits, are multiples of; None of others."""
    values = entries.view(np.float32)
    if not np.isfinite(values).all() or not values.any():
        return None
    sizes = np.unique(np.abs(values.astype(np.float64)))
    gaps = np.diff(sizes[sizes > 0], prepend=0.0)
    for divisor in range(1, _DIVISORS + 1):
        rough = gaps.min() / divisor
        if sizes[-1] >= rough * (1 << 20):
            return None
        near = np.float32(sizes[-1] / np.rint(sizes[-1] / rough))
        for step in (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))):
            if step >= np.finfo(np.float32).tiny:
                made = _from_steps(np.rint(values / step).astype(np.int64), step)
                if (made.view(np.uint32) == entries).all():
                    return step
    return None


def _waves(bits: np.ndarray, sizes: tuple[int, ...]) -> Form | None:
    """Of weights that are sums of few waves, as `Waves.weights` makes them of levels; None of others."""
    rows, columns, kernel = shape_of(sizes)
    if rows * columns != len(bits) or columns < 2 or len(sizes) < 2:
        return None
    weights = bits.view(np.float32).reshape(rows, columns)
    first = weights[:_GLANCE][weights[:_GLANCE].any(1)][: -(-_GLANCE // columns)]
    if not len(first) or not np.isfinite(first).all():
        return None
    for waves in _pictures(sizes, columns, kernel):
        if _levels_of(waves.of(first.astype(np.float64))) is None or not np.isfinite(weights).all():
            continue
        found = _levels_of(waves.of(weights.astype(np.float64)))
        if found is not None and (waves.weights(*found).view(np.uint32) == bits.reshape(rows, columns)).all():
            levels, step = found
            head = step.tobytes() + whole(waves.height) + whole(waves.width)
            return Form(Kind.WAVES, head, levels.reshape(-1), picture=waves.size)
    return None


def _pictures(sizes: tuple[int, ...], columns: int, kernel: int) -> list[Waves]:
    """What the columns of a matrix may be: a convolution's kernels as they are, or what a picture was flattened to."""
    if len(sizes) > 2:
        height, width = kernel // sizes[-1], sizes[-1]
        return [Waves(height, width)] if kernel > 1 and max(height, width) <= LONGEST else []
    sides = [n for n in range(1, min(columns, LONGEST) + 1) if columns % n == 0]
    pairs = [(h, w) for h in sides for w in sides if 1 < h * w <= columns and columns % (h * w) == 0]
    return [Waves(*pair) for pair in sorted(pairs, key=lambda p: (-p[0] * p[1], abs(p[0] - p[1])))]


def _levels_of(amounts: np.ndarray) -> tuple[np.ndarray, np.float32] | None:
    """The int64 levels and the step of which amounts are multiples, but for what rounding changed."""
    sizes = np.sort(np.abs(amounts).reshape(-1))
    noise = _NOISE * sizes[-1]
    seen = sizes[sizes > noise]
    parts = seen
    for i in range(_REMAINDERS):  # as in Euclid's algorithm: gaps between multiples are multiples
        gaps = np.diff(parts, prepend=0.0)
        parts = np.sort(np.concatenate([parts, gaps[gaps > 3 * 2**i * noise]]))[:_SMALLEST]
    least = parts[0] if len(parts) else np.inf
    for divisor in range(1, _DIVISORS + 1):
        step = reach = least / divisor
        if sizes[-1] > 1.01 * LARGEST * step or not np.isfinite(step):
            return None
        while reach < sizes[-1]:  # the more levels are known, the better is the step
            reach = min(4 * reach, sizes[-1])
            known = seen[: np.searchsorted(seen, reach * 1.5)]
            counts = np.rint(known / step)
            step = float(known @ counts / (counts @ counts)) if counts.any() else step
        if sizes[-1] / step <= LARGEST and (np.abs(seen - np.rint(seen / step) * step) <= 0.1 * step).all():
            near = np.float32(step)
            return (np.rint(amounts / near).astype(np.int64), near) if near >= np.finfo(np.float32).tiny else None
    return None


def _from_steps(levels: np.ndarray, step: np.float32) -> np.ndarray:
    """float32 [n]; takes the place of int32 levels, since fresh memory is what takes most of the time."""
    made: np.ndarray = levels.view(np.float32) if levels.dtype == np.int32 else np.empty(len(levels), np.float32)
    np.copyto(made, levels, casting="unsafe")
    made *= step
    return made


def _table(entries: np.ndarray, place: np.ndarray, kind: Type) -> Form:
    sign = np.uint64(1 << (8 * kind.bytes - 1))
    wide = entries.astype(np.uint64)
    order = np.where(wide & sign, sign - 1 - (wide & (sign - np.uint64(1))), wide | sign)  # rises as the floats do
    ranked = np.argsort(order, kind="stable")
    rank = np.empty_like(ranked)
    rank[ranked] = np.arange(len(ranked))
    middle = int(np.argmin((wide & (sign - np.uint64(1)))[ranked]))  # the one nearest 0
    return Form(Kind.TABLE, whole(len(entries)) + whole(middle) + entries[ranked].tobytes(), rank[place] - middle)


def read_head(kind: Kind, fields: Fields, dtype: str, sizes: tuple[int, ...]) -> Any:
    """What `restore` needs beside levels, from a form's head."""
    element, count = TYPES[dtype], int(np.prod(sizes, dtype=object))
    if kind != Kind.RAW and element.is_float == (kind in (Kind.RAMP, Kind.LEVELS)):
        raise Damaged(f"{kind.name.lower()} of {dtype}")
    match kind:
        case Kind.RAMP:
            first, step = fields.signed(), fields.signed(1 << 32)
            info = np.iinfo(element.bits)
            last = first + step * max(0, count - 1)
            if not all(info.min <= v <= _most(dtype) for v in (first, last)):
                raise Damaged(f"a ramp from {first} leaves {dtype}")
            return first, step
        case Kind.LEVELS:
            return fields.signed()
        case Kind.STEPS:
            given = np.frombuffer(fields.take(4), "<f4")[0]
            if dtype != "float32" or not np.finfo(np.float32).tiny <= given <= np.finfo(np.float32).max:
                raise Damaged(f"multiples of {given}, as {dtype}")
            return given
        case Kind.WAVES:
            given = np.frombuffer(fields.take(4), "<f4")[0]
            height, width = fields.whole(LONGEST), fields.whole(LONGEST)
            if dtype != "float32" or not np.finfo(np.float32).tiny <= given <= np.finfo(np.float32).max:
                raise Damaged(f"waves of multiples of {given}, as {dtype}")
            columns = shape_of(sizes)[1]
            if len(sizes) < 2 or height * width < 2 or columns % (height * width):
                raise Damaged(f"waves of {height} x {width} over {columns:,} columns")
            return given, Waves(height, width)
        case Kind.TABLE:
            entries, middle = fields.whole(_MOST_ENTRIES), fields.whole(_MOST_ENTRIES)
            return np.frombuffer(fields.take(entries * element.bytes), element.bits), middle
    return None


def restore(
    kind: Kind, head: Any, levels: np.ndarray | None, tail: Fields, dtype: str, count: int, words: Words
) -> np.ndarray:
    """The integers [count] that a tensor's bits spell."""
    element = TYPES[dtype]
    match kind:
        case Kind.RAMP:
            return (head[0] + head[1] * np.arange(count)).astype(element.bits)
        case Kind.WORDS:
            return words.read(tail, count, element.bits, element.exponent)
        case Kind.RAW:
            plain = np.frombuffer(tail.take(count * element.bytes), element.bits)
            _check(dtype != "bool" or (plain <= 1).all(), "it holds other than true and false")
            return plain
    if levels is None:
        raise Damaged(f"{kind.name.lower()} of {dtype}")
    match kind:
        case Kind.LEVELS:
            values, info = levels.astype(np.int64) + head, np.iinfo(element.bits)
            _check(count == 0 or (info.min <= values.min() and values.max() <= _most(dtype)), f"its {dtype} overflow")
            return values.astype(element.bits)
        case Kind.STEPS:
            least, most = (int(levels.min()), int(levels.max())) if count else (0, 0)
            largest = max(-least, most)
            _check(largest <= _MOST_STEPS, "a level in it has no float32")
            with np.errstate(over="ignore"):
                _check(np.isfinite(np.float32(largest) * head), "a multiple of a step in it is infinite")
            return _from_steps(levels, head).view(element.bits)
        case Kind.WAVES:
            step, waves = head
            largest = max(-int(levels.min()), int(levels.max())) if count else 0
            _check(largest <= LARGEST, "a level of its waves is too large")
            with np.errstate(over="ignore"):
                weights = waves.weights(levels, step)
            _check(np.isfinite(weights).all(), "a sum of its waves is infinite")
            return weights.view(element.bits)
        case Kind.TABLE:
            entries, middle = head
            place = levels.astype(np.int64) + middle
            _check(count == 0 or (place.min() >= 0 and place.max() < len(entries)), "it leaves its table")
            return entries[place]
        case Kind.SPARSE:
            made = np.zeros(count, element.bits)
            places = np.flatnonzero(levels)
            made[places] = words.read(tail, len(places), element.bits, element.exponent)
            return made
    raise Damaged(f"{kind.name.lower()} of {dtype}")


def _most(dtype: str) -> int:
    return 1 if dtype == "bool" else int(np.iinfo(TYPES[dtype].bits).max)


def _check(fits: Any, what: str) -> None:
    if not fits:
        raise Damaged(what)

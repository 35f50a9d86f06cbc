"""Integers of a matrix, coded one after another by what stands around them.

Rows are output channels; columns are what they read, `kernel` neighbouring ones of each input channel. Weights of a
trained network have no texture, yet rows, columns, input channels and kernel positions differ in how large their
weights are, most of all where weights were pruned: the contexts are running means of magnitudes along each of those,
and the nearest neighbours.

A level is written as: zero or not; its sign; how many binary digits its magnitude has, in unary; its digits below the
leading one. docs/plt.md, section 6, is the exact description.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from packlight.codec.binary import (
    COST,
    COST_UNIT,
    EVEN,
    READ,
    WEIGHT,
    WRITE,
    code_alone,
    code_mixed,
    finish,
    fresh,
    given,
    start,
)
from packlight.codec.fields import Damaged
from packlight.loops import inlined, loop, numbers, octets

_INPUTS = 7
_DIGITS = 33  # flags that a magnitude may have, the last of them 0
_TOO_LONG = -1
_BINS = 16  # decisions with contexts of their own: zero or not, then the unary ones
_CLASS, _OCTAVE = 64, 32
_SIZES = (_CLASS, _CLASS, _OCTAVE * _OCTAVE, 64, _CLASS * 9, 64 * _OCTAVE, 1)
_STARTS = np.concatenate([[0], np.cumsum(np.array(_SIZES) * _BINS)])
_SIGNS = int(_STARTS[-1])  # 27 slots
_TREE = _SIGNS + 27  # of the three digits after the leading one
_SLOTS = _TREE + _DIGITS * 8 + _DIGITS * _DIGITS
_LOW_DIGITS = _TREE + _DIGITS * 8
_S0, _S1, _S2, _S3, _S4, _S5, _S6 = (int(s) for s in _STARTS[:_INPUTS])
_MEMORY = 100  # rows that a column's mean reaches back, about
_FORGET = 24  # observations that a probability is taken to rest on at the start of a matrix, at most
_HIGHEST = 4095  # magnitude that a mean counts


RECIP = numbers([(1 << 16) * 2 // (2 * n + 3) for n in range(_MEMORY + 1)])
OCTAVES = numbers([n.bit_length() for n in range(4096)])


@inlined
def _octave(value: int) -> int:
    """The number of binary digits of 0 <= value < 2³⁶."""
    if value < 4096:
        return OCTAVES[value]
    value >>= 12
    return 12 + OCTAVES[value] if value < 4096 else 24 + OCTAVES[value >> 12]


@inlined
def _class(value: int, digits: int) -> int:
    """Two classes an octave."""
    return 2 * digits + ((value >> (digits - 2)) & 1) if digits > 1 else digits


@loop
def _code_matrix(
    io: Any, data: Any, levels: Any, first: int, rows: int, columns: int, kernel: int, slow: int,
    chances: Any, weights: Any, slots: Any, column_means: Any, channel_means: Any,
) -> int:  # fmt: skip
    """Code rows · columns levels from index `first` on. slow: the mean magnitude before; returns the one after, or
    `_TOO_LONG`."""
    fast = slow
    for r in range(rows):
        one, two = 0, 0
        row = first + r * columns
        seen = 3
        column_rate = RECIP[min(r, _MEMORY)]
        for c in range(columns):
            at = row + c
            up = levels[at - columns] if r > 0 else 0
            up_two = levels[at - 2 * columns] if r > 1 else 0
            channel = c // kernel
            if r == 0:
                column_means[c] = slow
                channel_means[channel] = slow
            mean = column_means[c]
            near_one, near_two = min(3, abs(one)), min(3, abs(two))
            near_up = min(3, abs(up))
            column_octave, slow_octave = _octave(mean), _octave(slow)
            slots[0] = _S0 + _class(mean, column_octave)
            slots[1] = _S1 + _class(slow, slow_octave)
            slots[2] = _S2 + column_octave * _OCTAVE + slow_octave
            slots[3] = _S3 + near_one * 16 + near_two * 4 + near_up
            slots[4] = _S4 + _class(fast, _octave(fast)) * 9 + min(2, near_up) * 3 + min(2, abs(up_two))
            if kernel > 1:
                slots[5] = _S5 + min(63, c - channel * kernel) * _OCTAVE + _octave(channel_means[channel])
            else:
                before = _octave(column_means[c - 1]) if c > 0 else 0
                after = _octave(column_means[c + 1]) if r > 0 and c + 1 < columns else 0
                slots[5] = _S5 + before * _OCTAVE + after
            slots[6] = _S6
            level = levels[at]
            size = abs(level)
            digits = _octave(size)
            step = 0
            while step < _DIGITS:
                more = code_mixed(io, data, chances, slots, _INPUTS, weights, min(step, _BINS - 1) * _INPUTS,
                                  1 if digits > step else 0)  # fmt: skip
                if not more:
                    break
                if step < _BINS - 1:
                    slots[0] += _CLASS
                    slots[1] += _CLASS
                    slots[2] += _OCTAVE * _OCTAVE
                    slots[3] += 64
                    slots[4] += _CLASS * 9
                    slots[5] += 64 * _OCTAVE
                    slots[6] += 1
                step += 1
            if step == _DIGITS:
                return _TOO_LONG
            if step > 0:
                sign = 9 * (1 + (one > 0) - (one < 0)) + 3 * (1 + (up > 0) - (up < 0)) + 1 + (two > 0) - (two < 0)
                negative = code_alone(io, data, chances, _SIGNS + sign, 1 if level < 0 else 0)
                value = 1
                for i in range(step - 1):
                    slot = _TREE + step * 8 + value if i < 3 else _LOW_DIGITS + step * _DIGITS + i
                    digit = code_alone(io, data, chances, slot, (size >> (step - 2 - i)) & 1)
                    value = 2 * value + digit
                size = value
                level = -value if negative else value
                levels[at] = level
            else:
                size = 0
                level = 0
                levels[at] = 0
            size = min(size, _HIGHEST) << 12
            column_means[c] = mean + (((size - mean) * column_rate) >> 16)
            if kernel > 1:
                channel_means[channel] += (size - channel_means[channel]) >> 4
            fast += (size - fast) >> 2
            slow += ((size - slow) * RECIP[min(seen, _MEMORY)]) >> 16
            seen += 1
            two = one
            one = level
    return slow


@loop
def _code_all(
    io: Any, data: Any, levels: Any, shapes: Any, costs: Any,
    chances: Any, weights: Any, slots: Any, column_means: Any, channel_means: Any,
) -> int:  # fmt: skip
    start(io, data)
    first, slow = 0, 0
    for i in range(0, len(shapes), 3):
        for slot in range(len(chances)):
            chances[slot] -= max(0, (chances[slot] & 1023) - _FORGET)
        rows, columns, kernel = shapes[i], shapes[i + 1], shapes[i + 2]
        slow = _code_matrix(
            io, data, levels, first, rows, columns, kernel, slow,
            chances, weights, slots, column_means, channel_means,
        )  # fmt: skip
        if slow == _TOO_LONG:
            return _TOO_LONG
        first += rows * columns
        costs[i // 3] = io[COST]
    return finish(io, data) if io[0] else 0


Shape = tuple[int, int, int]


def _model(shapes: Sequence[Shape]) -> tuple[Any, ...]:
    widest = max((columns for _, columns, _ in shapes), default=0)
    return (
        numbers(np.full(_SLOTS, EVEN)), numbers(np.full(_BINS * _INPUTS, WEIGHT // 5)),
        numbers(np.zeros(2 * _INPUTS)), numbers(np.zeros(widest)), numbers(np.zeros(widest)),
    )  # fmt: skip


def write_levels(levels: np.ndarray, shapes: Sequence[Shape]) -> bytes:
    """Coded bytes of matrices one after another.

    levels: integers [sum of rows · columns], magnitudes below 2³². shapes: rows, columns and kernel (a divisor of
    columns) of each.
    """
    room, flat = octets(levels.size // 4 + 4096), [n for shape in shapes for n in shape]
    while True:
        costs = numbers(np.zeros(len(shapes)))
        length = _code_all(fresh(WRITE, len(room)), room, numbers(levels), numbers(flat), costs, *_model(shapes))
        if length <= len(room):
            return bytes(room[:length])
        room = octets(length)


def read_levels(data: bytes, shapes: Sequence[Shape]) -> tuple[list[np.ndarray], np.ndarray]:
    """The int64 [rows · columns] of each matrix that `write_levels` coded, and float64 [matrices], the bits that each
    took, before any is lost to the coder. From other data, some integers, or Damaged."""
    ends = np.cumsum([rows * columns for rows, columns, _ in shapes])
    levels = numbers(np.zeros(int(ends[-1]), np.int64))
    costs = numbers(np.zeros(len(shapes)))
    flat = [n for shape in shapes for n in shape]
    length = _code_all(fresh(READ, len(data)), given(data), levels, numbers(flat), costs, *_model(shapes))
    if length == _TOO_LONG:
        raise Damaged(f"a level in it has more than {_DIGITS - 1} binary digits")
    split = np.split(np.asarray(levels, np.int64), ends[:-1])
    return split, np.diff(np.asarray(costs, np.float64), prepend=0.0) / COST_UNIT

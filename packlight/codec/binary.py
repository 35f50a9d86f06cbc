"""An adaptive binary range coder whose probabilities are mixed from several contexts; integers only.

Range coding: Martin 1979, "Range encoding"; carries as in Igor Pavlov's LZMA. Mixing in the logistic domain: Mahoney
2005, "Adaptive weighing of context models for lossless data compression" (PAQ). docs/plt.md, sections 4 and 5, is
their exact description.

The same functions write and read, so that the two cannot drift apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from packlight.codec.fields import Damaged
from packlight.loops import inlined, loop, numbers, octets

READ, WRITE = 0, 1
DIRECTION, LOW, RANGE, CACHE, PENDING, AT, LENGTH, COST = range(8)
STATE = 8

_TOP = 1 << 24
_ONE = 1 << 30
_STEP = 1069555701  # round(2**30 · exp(−1/256))
REACH = 3071  # of a logit, in units of 1/256
EVEN = 1 << 31  # a probability of 1/2 that was never seen
LIMIT = 1023  # observations after which a probability forgets
LEARN = 8  # of a mixer, in units of 2**-18
WEIGHT = 1 << 16  # 1.0 of a mixer


def _squash() -> np.ndarray:
    """int64 [2 · REACH + 1]: 65536 · 1 / (1 + exp(−x / 256)) for x from −REACH, between 1 and 65535."""
    decay, values = _ONE, []
    for _ in range(REACH + 1):
        values.append(min(65535, (_ONE << 16) // (_ONE + decay)))
        decay = (decay * _STEP + (_ONE >> 1)) >> 30
    return np.array([65536 - v for v in values[:0:-1]] + values, np.int64)


def _stretch(squash: np.ndarray) -> np.ndarray:
    """int64 [4096]: the least x with squash(x) >= 16 · i + 8, at most REACH."""
    return np.minimum(np.searchsorted(squash, np.arange(4096) * 16 + 8) - REACH, REACH).astype(np.int64)


SQUASH = numbers(_squash(), np.int32)
STRETCH = numbers(_stretch(_squash()), np.int16)
COST_UNIT = 4096  # a bit
COSTS = numbers(np.round(-COST_UNIT * np.log2((np.arange(4097) + 0.5) / 4096)).clip(0), np.int32)
RATE = numbers([(1 << 16) * 2 // (2 * n + 4) for n in range(LIMIT + 1)], np.int32)


def fresh(direction: int, size: int = 0) -> Any:
    """The coder's state at the start. size: bytes to read, or room to write."""
    state = np.zeros(STATE, np.int64)
    state[[DIRECTION, RANGE, CACHE, LENGTH]] = direction, (1 << 32) - 1, -1, size
    return numbers(state)


def given(data: bytes) -> Any:
    """Coded bytes as `start` reads them. Raises Damaged for a beginning that no coder writes, at which `low` would not
    lie in the range and outgrow every integer."""
    if data[:4] == b"\xff\xff\xff\xff":
        raise Damaged("coded bytes begin as no coder begins them")
    return octets(data)


@loop
def start(io: Any, data: Any) -> None:
    """Before the first bit is read."""
    if io[DIRECTION] == READ:
        for _ in range(4):
            io[LOW] = (io[LOW] << 8) | _next(io, data)


@loop
def _next(io: Any, data: Any) -> int:
    """The next byte; zeros follow the last one."""
    at = io[AT]
    io[AT] = at + 1
    return int(data[at]) if at < io[LENGTH] else 0


@loop
def _put(io: Any, data: Any, byte: int) -> None:
    if io[AT] < io[LENGTH]:
        data[io[AT]] = byte
    io[AT] += 1


@loop
def _shift(io: Any, data: Any) -> None:
    """Hand out the top byte of `low`, once it is known whether a carry will reach it."""
    low = io[LOW]
    if low < 0xFF000000 or low >= 1 << 32:
        carry = low >> 32
        if io[CACHE] >= 0:
            _put(io, data, (io[CACHE] + carry) & 255)
        for _ in range(io[PENDING]):
            _put(io, data, (255 + carry) & 255)
        io[PENDING] = 0
        io[CACHE] = (low >> 24) & 255
    else:
        io[PENDING] += 1
    io[LOW] = (low & 0xFFFFFF) << 8


@loop
def finish(io: Any, data: Any) -> int:
    """After the last bit was written: the number of bytes, the zeros at their end left out. More than there was room
    for: nothing is lost but the bytes beyond it, so that the caller starts again with as many."""
    low = io[LOW]
    for bits in range(32, 0, -1):  # the roundest number that is still in the interval
        rounded = ((low + (1 << bits) - 1) >> bits) << bits
        if rounded < low + io[RANGE]:
            low = rounded
            break
    io[LOW] = low
    for _ in range(5):
        _shift(io, data)
    length = io[AT]
    if length <= io[LENGTH]:
        while length > 0 and data[length - 1] == 0:
            length -= 1
    return int(length)


@inlined
def code(io: Any, data: Any, one: int, bit: int) -> int:
    """Code a bit whose probability of being 1 is one / 65536, 0 < one < 65536; returns it."""
    bound = (io[RANGE] * one) >> 16
    if io[DIRECTION] == READ:
        bit = 1 if io[LOW] < bound else 0
        io[COST] += int(COSTS[(one if bit else 65536 - one) >> 4])
        if bit:
            io[RANGE] = bound
        else:
            io[LOW] -= bound
            io[RANGE] -= bound
        while io[RANGE] < _TOP:
            io[RANGE] <<= 8
            io[LOW] = (io[LOW] << 8) | _next(io, data)
        return bit
    io[COST] += int(COSTS[(one if bit else 65536 - one) >> 4])
    if bit:
        io[RANGE] = bound
    else:
        io[LOW] += bound
        io[RANGE] -= bound
    while io[RANGE] < _TOP:
        io[RANGE] <<= 8
        _shift(io, data)
    return bit


@inlined
def code_alone(io: Any, data: Any, chances: Any, slot: int, bit: int) -> int:
    """Code a bit by one adaptive probability: 22 bits of it, then 10 of how often it was seen."""
    entry = chances[slot]
    chance, seen = entry >> 10, entry & 1023
    bit = code(io, data, min(65535, max(1, chance >> 6)), bit)
    chance += (((bit << 22) - bit - chance) * RATE[seen]) >> 16
    chances[slot] = chance << 10 | min(LIMIT, seen + 1)
    return bit


@inlined
def code_mixed(io: Any, data: Any, chances: Any, slots: Any, inputs: int, weights: Any, base: int, bit: int) -> int:
    """Code a bit by the probabilities in the first `inputs` of `slots`, mixed with the weights from `base` on, and
    learn from it. slots has room for twice as many."""
    total = 0
    for i in range(inputs):
        stretched = int(STRETCH[chances[slots[i]] >> 20])
        slots[inputs + i] = stretched
        total += weights[base + i] * stretched
    one = int(SQUASH[min(REACH, max(-REACH, total >> 16)) + REACH])
    bit = code(io, data, one, bit)
    error = ((bit << 16) - one) * LEARN
    for i in range(inputs):
        weights[base + i] += (slots[inputs + i] * error + (1 << 17)) >> 18
        entry = chances[slots[i]]
        chance, seen = entry >> 10, entry & 1023
        chance += (((bit << 22) - bit - chance) * RATE[seen]) >> 16
        chances[slots[i]] = chance << 10 | min(LIMIT, seen + 1)
    return bit

"""Asymmetric numeral systems with fixed frequencies and four states in turn, for files that open fast.

Duda 2013 (arXiv 1311.2540), the range variant; several states in turn after Giesen 2014 (arXiv 1402.3392). Frequencies
add up to 4096, states are 32 bits wide and take 16 bits at a time. docs/plt.md, section 9, is the exact description.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from packlight.codec.fields import Damaged
from packlight.loops import loop, numbers

LANES = 4
_BITS = 12
TOTAL = 1 << _BITS
_FLOOR = 1 << 16


@loop
def _encode(symbols: Any, frequencies: Any, starts: Any, words: Any, states: Any) -> int:
    """Fills `words` from its end, in the order in which they are read; the index of the first."""
    at = len(words)
    for i in range(len(symbols) - 1, -1, -1):
        symbol = symbols[i]
        many = frequencies[symbol]
        state = states[i & 3]
        if state >= many << 20:
            at -= 1
            words[at] = state & 0xFFFF
            state >>= 16
        states[i & 3] = ((state // many) << 12) + state % many + starts[symbol]
    return at


@loop
def _decode(symbols: Any, table: Any, words: Any, states: Any) -> int:
    """Fills `symbols`; how many words were read, more than there are where the data is damaged.

    table: for each of the 4096 remainders of a state its symbol, 12 bits, the symbol's frequency, 13, and the
    remainder less the symbol's start, 12.
    """
    at, count, length = 0, len(symbols), len(words) - 1  # after the last word stands a 0
    one, two, three, four = states[0], states[1], states[2], states[3]
    for i in range(0, count, 4):
        entry = table[one & 4095]
        symbols[i] = entry & 4095
        one = ((entry >> 12) & 8191) * (one >> 12) + (entry >> 25)
        short = one < 65536
        one = (one << (16 * short)) | (words[min(at, length)] * short)
        at += short
        if i + 1 < count:
            entry = table[two & 4095]
            symbols[i + 1] = entry & 4095
            two = ((entry >> 12) & 8191) * (two >> 12) + (entry >> 25)
            short = two < 65536
            two = (two << (16 * short)) | (words[min(at, length)] * short)
            at += short
        if i + 2 < count:
            entry = table[three & 4095]
            symbols[i + 2] = entry & 4095
            three = ((entry >> 12) & 8191) * (three >> 12) + (entry >> 25)
            short = three < 65536
            three = (three << (16 * short)) | (words[min(at, length)] * short)
            at += short
        if i + 3 < count:
            entry = table[four & 4095]
            symbols[i + 3] = entry & 4095
            four = ((entry >> 12) & 8191) * (four >> 12) + (entry >> 25)
            short = four < 65536
            four = (four << (16 * short)) | (words[min(at, length)] * short)
            at += short
    return at


def frequencies_of(counts: np.ndarray) -> np.ndarray:
    """int64 [n] that add up to 4096, at least 1 each, close to the counts [n] (>= 1, n <= 4096)."""
    exact = counts * (TOTAL / counts.sum())
    made = np.maximum(1, np.floor(exact)).astype(np.int64)
    while (spare := TOTAL - int(made.sum())) != 0:  # one at a time to, or from, where it is worth most
        if spare > 0:
            order = np.argsort(-counts * np.log1p(1 / made), kind="stable")[:spare]
            made[order] += 1
        else:
            able = np.flatnonzero(made > 1)
            worth = counts[able] * -np.log1p(-1 / made[able])
            made[able[np.argsort(worth, kind="stable")[:-spare]]] -= 1
    return made


def write_symbols(symbols: np.ndarray, frequencies: np.ndarray) -> bytes:
    """Symbols [n], 0 to len(frequencies) − 1, as coded bytes. frequencies: as of `frequencies_of`."""
    states = numbers(np.full(LANES, _FLOOR))
    starts = np.concatenate([[0], np.cumsum(frequencies)[:-1]])
    words = numbers(np.zeros(len(symbols) + 8, np.uint16), np.uint16)
    first = _encode(numbers(symbols, np.uint16), numbers(frequencies), numbers(starts), words, states)
    return np.asarray(states, "<u4").tobytes() + np.asarray(words[first:], "<u2").tobytes()


def read_symbols(data: bytes, count: int, frequencies: np.ndarray) -> np.ndarray:
    """The uint16 [count] that `write_symbols` coded; from other data, some symbols. Raises Damaged where it is too
    short to have been written by it."""
    if len(data) < 4 * LANES or len(data) % 2:
        raise Damaged("a stream of four states is too short")
    states, words = np.frombuffer(data, "<u4", LANES), np.frombuffer(data, "<u2", offset=4 * LANES)
    starts = np.concatenate([[0], np.cumsum(frequencies)[:-1]])
    owner = np.repeat(np.arange(len(frequencies)), frequencies)
    table = owner | frequencies[owner] << 12 | (np.arange(TOTAL) - starts[owner]) << 25
    symbols = numbers(np.zeros(count, np.uint16), np.uint16)
    read = _decode(symbols, numbers(table), numbers(np.append(words, 0), np.uint16), numbers(states))
    if read != len(words):
        raise Damaged(f"a stream of {len(words)} words ends after {read}")
    return np.asarray(symbols, np.uint16)

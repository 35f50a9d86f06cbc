"""Text (a file's header: names and the graph), a bit at a time, each predicted from the letters before it.

Contexts of 1, 2, 3, 4 and 6 letters, of the current word, and of the place where the last five letters stood before,
mixed (Mahoney 2005). Before it codes anything the model
has read a primer, so that a header of the usual kind costs a few bits where it says what headers always say.
docs/plt.md, section 7, is the exact description.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from packlight.codec.binary import EVEN, READ, WEIGHT, WRITE, code_mixed, finish, fresh, given, start
from packlight.loops import loop, numbers, octets

_ORDERS = 6
_INPUTS = _ORDERS + 2
_BITS = 16
_TABLE = 1 << _BITS
_MATCH = 256 + _ORDERS * _TABLE
_LONGEST = 32  # match that is told apart
_SIZE = _MATCH + 2 * (_LONGEST + 1)
_SETS = 3 * (_ORDERS + 1)
_MIX = 0x2545F491
_MASK = (1 << 32) - 1


@loop
def _code_text(
    io: Any, data: Any, text: Any, begin: int, end: int,
    chances: Any, weights: Any, slots: Any, hashes: Any, places: Any,
) -> int:  # fmt: skip
    source, same = 0, 0
    for at in range(begin, end):
        history = 0
        for i in range(6):
            letter = int(text[at - 1 - i]) if at - 1 - i >= 0 else 0
            history = ((history ^ letter) * _MIX + i + 1) & _MASK
            if i < 4:
                hashes[i] = history
            if i == 4:
                spot = (history * _MIX & _MASK) >> (32 - _BITS)
        hashes[4] = history
        if same > 0 and text[source] == text[at - 1]:
            same = min(_LONGEST, same + 1)
            source += 1
        else:
            same = 0
            source = places[spot]
            while same < _LONGEST and same < source and text[source - 1 - same] == text[at - 1 - same]:
                same += 1
        places[spot] = at
        word = 0
        back = at - 1
        while back >= 0 and at - back <= 24:
            letter = int(text[back])
            if not (97 <= (letter | 32) <= 122):
                break
            word = ((word ^ letter) * _MIX + 7) & _MASK
            back -= 1
        before = int(text[back]) if back >= 0 else 0
        hashes[5] = ((word ^ before) * _MIX + 11) & _MASK
        node = 1
        letter = int(text[at])
        guess = 256 + int(text[source]) if same > 0 else 0
        for i in range(8):
            slots[0] = node
            known = 0
            if guess >> (8 - i) == node:
                slots[_INPUTS - 1] = _MATCH + 2 * same + ((guess >> (7 - i)) & 1)
                known = 7 if same < 16 else 14
            else:
                slots[_INPUTS - 1] = _MATCH
            for order in range(_ORDERS):
                spot = (((hashes[order] ^ (node * 0x9E3779B1)) & _MASK) * _MIX & _MASK) >> (32 - _BITS)
                slot = 256 + order * _TABLE + spot
                slots[order + 1] = slot
                if chances[slot] & 1023:
                    known += 1
            bit = code_mixed(io, data, chances, slots, _INPUTS, weights, known * _INPUTS, (letter >> (7 - i)) & 1)
            node = 2 * node + bit
        text[at] = node & 255
    return 0


@loop
def _all_text(
    io: Any, data: Any, text: Any, begin: int, chances: Any, weights: Any, slots: Any, hashes: Any, places: Any
) -> int:
    start(io, data)
    _code_text(io, data, text, begin, len(text), chances, weights, slots, hashes, places)
    return finish(io, data) if io[0] else 0


@cache
def primer() -> bytes:
    """What the model has read before a header begins."""
    return files("packlight.codec").joinpath("primer.txt").read_bytes()


@cache
def _primed() -> tuple[Any, ...]:
    """The model's state after the primer: chances, weights, slots, hashes, places."""
    model = (
        numbers(np.full(_SIZE, EVEN)), numbers(np.full(_SETS * _INPUTS, WEIGHT // 4)),
        numbers(np.zeros(2 * _INPUTS)), numbers(np.zeros(_ORDERS)), numbers(np.zeros(_TABLE)),
    )  # fmt: skip
    _code_text(fresh(WRITE), octets(0), octets(primer()), 0, len(primer()), *model)
    return model


def _run(direction: int, data: Any, room: int, text: bytes) -> tuple[Any, int]:
    before = primer()
    letters = octets(before + text)
    length = _all_text(fresh(direction, room), data, letters, len(before), *(part.copy() for part in _primed()))
    return letters[len(before) :], length


def write_text(text: bytes) -> bytes:
    """Text as coded bytes."""
    room = octets(3 * len(text) + 64)
    while True:
        _, length = _run(WRITE, room, len(room), text)
        if length <= len(room):
            return bytes(room[:length])
        room = octets(length)


def read_text(data: bytes, length: int) -> bytes:
    """The text of so many bytes that `write_text` coded; from other data, some text of that length, or Damaged."""
    letters, _ = _run(READ, given(data), len(data), bytes(length))
    return bytes(letters)

"""Whole numbers of any size as bytes, and reading them without trusting what comes."""

from __future__ import annotations

from packlight.errors import PacklightError


class Damaged(PacklightError):
    """A file says what none of packlight's writers would say."""


def whole(value: int) -> bytes:
    """A number >= 0, seven bits a byte, the lowest first; the top bit says that more follow (LEB128)."""
    made = bytearray()
    while value >= 128:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def signed(value: int) -> bytes:
    """A number as `whole`, its sign in the lowest bit."""
    return whole(-2 * value - 1 if value < 0 else 2 * value)


class Fields:
    """Reads one value after another from bytes."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise Damaged(f"{count:,} bytes are missing at its end")
        self.at += count
        return self.data[self.at - count : self.at]

    def whole(self, most: int = 1 << 62) -> int:
        value = 0
        for i in range(9):
            byte = self.take(1)[0]
            value |= (byte & 127) << (7 * i)
            if byte < 128:
                break
        else:
            raise Damaged("a number in it does not end")
        if value > most:
            raise Damaged(f"it says {value:,} where {most:,} is the most")
        return value

    def signed(self, most: int = 1 << 61) -> int:
        value = self.whole(2 * most)
        return -(value >> 1) - 1 if value & 1 else value >> 1

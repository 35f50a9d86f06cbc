"""A stream: some tensors coded one after another, small ones together so that what is learnt of one serves the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from packlight.codec.fast import FastWords, read_fast, write_fast
from packlight.codec.fields import Damaged, Fields, whole
from packlight.codec.forms import Kind, form_of, read_head, restore, shape_of
from packlight.codec.levels import read_levels, write_levels
from packlight.codec.words import SmallWords, Words


class Coder(IntEnum):
    """SMALL: adaptive contexts, the fewest bytes. FAST: fixed frequencies, opens tens of times faster."""

    SMALL, FAST = range(2)


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its name, element type and sizes."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return int(np.prod(self.shape, dtype=object))


@dataclass(frozen=True)
class Part:
    """One tensor of a stream that was read. bits: the integers [elements] that its elements spell. ideal: what it took
    before any bit is lost to the coder, in bits; what is stored as it is counts in full."""

    kind: Kind
    bits: np.ndarray = field(repr=False)
    ideal: float


_WORDS: dict[Coder, Words] = {Coder.SMALL: SmallWords(), Coder.FAST: FastWords()}


def write_stream(entries: Sequence[Entry], tensors: Sequence[np.ndarray], coder: Coder) -> bytes:
    """tensors: of each entry the integers [elements] that its elements spell."""
    forms = [form_of(bits, e.dtype, e.shape, _WORDS[coder]) for e, bits in zip(entries, tensors, strict=True)]
    made = b"".join(bytes([form.kind]) + form.head for form in forms)
    levels = [form.levels for form in forms if form.levels is not None]
    if levels:
        coded_ones = [(e, form) for e, form in zip(entries, forms, strict=True) if form.levels is not None]
        shapes = [shape_of(e.shape, form.picture) for e, form in coded_ones]
        flat = np.concatenate(levels)
        coded = write_levels(flat, shapes) if coder == Coder.SMALL else write_fast(flat, shapes)
        made += whole(len(coded)) + coded
    return made + b"".join(form.tail for form in forms)


def read_stream(data: bytes, entries: Sequence[Entry], coder: Coder) -> list[Part]:
    """The tensors of a stream. Raises Damaged for bytes that `write_stream` would not have made."""
    fields = Fields(data)
    heads, shapes = [], []
    for entry in entries:
        kind = fields.take(1)[0]
        if kind not in Kind.__members__.values():
            raise Damaged(f"tensor {entry.name!r} has unknown form {kind}")
        start = fields.at
        head = read_head(Kind(kind), fields, entry.dtype, entry.shape)
        heads.append((Kind(kind), head, fields.at - start))
        if Kind(kind).has_levels:
            shapes.append(shape_of(entry.shape, head[1].size if kind == Kind.WAVES else 0))
    levels: list[np.ndarray] = []
    costs = np.zeros(0)
    if shapes:
        coded = fields.take(fields.whole())
        levels, costs = read_levels(coded, shapes) if coder == Coder.SMALL else read_fast(coded, shapes)
    parts, place = [], 0
    for entry, (kind, head, length) in zip(entries, heads, strict=True):
        part, cost = None, 8.0 * (1 + length)
        if kind.has_levels:
            part = levels[place]
            cost += float(costs[place])
            place += 1
        start = fields.at
        bits = restore(kind, head, part, fields, entry.dtype, entry.count, _WORDS[coder])
        parts.append(Part(kind, bits, cost + 8.0 * (fields.at - start)))
    if fields.left:
        raise Damaged(f"{fields.left:,} bytes stand after its last tensor")
    return parts

"""Where each byte of a `.plt` file goes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from packlight.codec.forms import TYPES
from packlight.codec.package import read_packed
from packlight.codec.streams import Entry, Part
from packlight.model import Model


@dataclass(frozen=True)
class Row:
    """One tensor. form: how it is coded. bytes: in the file, its share of its stream. ideal_bytes: what it would take
    if no bit were lost to the coder. memory_bytes: unpacked."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    form: str
    coder: str
    bytes: float
    ideal_bytes: float
    memory_bytes: int


@dataclass(frozen=True)
class Account:
    """header_bytes: of the list of tensors and the graph; frame_bytes: of lengths and checksums."""

    model: Model
    file_bytes: int
    header_bytes: int
    frame_bytes: int
    memory_bytes: int
    rows: tuple[Row, ...]

    @property
    def overhead(self) -> float:
        """How much more the coded tensors take than the ideal, as a share of it."""
        ideal = sum(row.ideal_bytes for row in self.rows)
        return sum(row.bytes for row in self.rows) / ideal - 1 if ideal else 0.0


def account(path: str | os.PathLike[str]) -> Account:
    """Reads the whole file, so that all of its checksums are looked at."""
    model, header, parts = read_packed(path)
    rows, at = [], 0
    for stream in header.streams:
        mine = parts[at : at + len(stream.entries)]
        at += len(mine)
        ideal = sum(p.ideal for p in mine) / 8
        scale = stream.size / ideal if ideal else 1.0
        rows += [_row(e, p, stream.coder.name.lower(), scale) for e, p in zip(stream.entries, mine, strict=True)]
    whole = Path(path).stat().st_size
    streams = sum(stream.size for stream in header.streams)
    frame = whole - header.text_bytes - streams
    return Account(model, whole, header.text_bytes, frame, sum(row.memory_bytes for row in rows), tuple(rows))


def _row(entry: Entry, part: Part, coder: str, scale: float) -> Row:
    ideal = part.ideal / 8
    size = entry.count * TYPES[entry.dtype].bytes
    return Row(entry.name, entry.dtype, entry.shape, part.kind.name.lower(), coder, ideal * scale, ideal, size)

"""The `.plt` file: a text that says what is in it, then streams of coded tensors. docs/plt.md is its specification.

Everything is little-endian. Nothing in the file is executed; every length is checked against what is there before
memory is taken for it.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from packlight.codec.fields import Damaged, Fields, whole
from packlight.codec.forms import TYPES
from packlight.codec.streams import Coder, Entry, Part, read_stream, write_stream
from packlight.codec.text import read_text, write_text
from packlight.errors import PacklightError
from packlight.files import replace_file

SUFFIX = ".plt"
MAGIC = b"PLT\x01"
_TOGETHER = 1 << 20  # elements of the tensors of a stream, where they are several
_MOST_HEADER, _MOST_TEXT = 1 << 24, 3 << 22
_MOST_ENTRIES = 1 << 16
_MOST_ELEMENTS = 1 << 48  # of a tensor, a size of 0 counted as 1
_FREE, _PER_BYTE = 1 << 22, 4096  # a file may unpack to so many bytes, and to so many more for every byte of its own
_FREE_TEXT, _TEXT_PER_BYTE = 1 << 16, 256  # the same of a header's text
_TAKEN = "__metadata__"  # a name that safetensors files use themselves
_CHUNK = 1 << 20
_SIZE = re.compile("0|[1-9][0-9]{0,9}")


@dataclass(frozen=True)
class Stream:
    """One stream's line in the header. size: of its bytes. crc: CRC-32 of them."""

    entries: tuple[Entry, ...]
    coder: Coder
    size: int
    crc: int


@dataclass(frozen=True)
class Header:
    """document: the text that came with the tensors. text_bytes: that it and the list of tensors take. fixed_bytes:
    of the header beside them."""

    document: str = field(repr=False)
    streams: tuple[Stream, ...]
    text_bytes: int
    fixed_bytes: int


def write(
    path: Path, document: str, tensors: Iterable[tuple[Entry, Any]], coder: Coder, threads: int | None = None
) -> None:
    """Write a file whole or not at all. tensors: each with a callable that gives the integers [elements] its elements
    spell, so that no more of them are in memory than are coded at once. threads: that code; default: one a core."""
    replace_file(path, lambda temporary: _write(Path(temporary), document, list(tensors), coder, threads))


def _write(path: Path, document: str, tensors: list[tuple[Entry, Any]], coder: Coder, threads: int | None) -> None:
    text = "".join(f"{e.name} {e.dtype} {','.join(map(str, e.shape))}\n" for e, _ in tensors) + "\n" + document
    raw = text.encode()
    if len(raw) > _MOST_TEXT or len(tensors) > _MOST_ENTRIES:
        raise PacklightError(
            f"a {SUFFIX} file describes a network in {_MOST_TEXT:,} bytes and {_MOST_ENTRIES:,} tensors, "
            f"this takes {len(raw):,} and {len(tensors):,}"
        )
    coded = write_text(raw)
    coded += b"\0" * max(0, -(-(len(raw) - _FREE_TEXT) // _TEXT_PER_BYTE) - len(coded))
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        lines = b""
        for group, (how, made) in zip(_groups(tensors), _coded(tensors, coder, threads), strict=True):
            spool.write(made)
            lines += whole(len(group)) + bytes([how]) + whole(len(made)) + zlib.crc32(made).to_bytes(4, "little")
        streams = sum(1 for _ in _groups(tensors))
        head = whole(len(raw)) + whole(len(coded)) + whole(streams) + lines + coded
        size = 8 + len(head) + spool.tell()
        unpacked = sum(e.count * TYPES[e.dtype].bytes for e, _ in tensors)
        filler = b"\0" * max(0, -(-(unpacked - _FREE) // _PER_BYTE) - size)
        crc = zlib.crc32(head)
        with open(path, "wb") as file:
            file.write(MAGIC + bytes(4) + head)
            spool.seek(0)
            while chunk := spool.read(_CHUNK):
                crc = zlib.crc32(chunk, crc)
                file.write(chunk)
            file.write(filler)
            file.seek(len(MAGIC))
            file.write(zlib.crc32(filler, crc).to_bytes(4, "little"))


def _groups(tensors: Sequence[tuple[Entry, Any]]) -> Iterator[list[tuple[Entry, Any]]]:
    """Neighbours of at most `_TOGETHER` elements in all; a larger tensor alone."""
    group: list[tuple[Entry, Any]] = []
    total = 0
    for entry, load in tensors:
        if group and total + entry.count > _TOGETHER:
            yield group
            group, total = [], 0
        group.append((entry, load))
        total += entry.count
    if group:
        yield group


def _coded(tensors: Sequence[tuple[Entry, Any]], coder: Coder, threads: int | None) -> Iterator[tuple[Coder, bytes]]:
    def one(group: list[tuple[Entry, Any]]) -> tuple[Coder, bytes]:
        entries, bits = [e for e, _ in group], [load() for _, load in group]
        tried = [(how, write_stream(entries, bits, how)) for how in {coder, Coder.FAST}]
        return min(tried, key=lambda made: len(made[1]))

    yield from _in_threads(one, _groups(tensors), threads)


def _in_threads(do: Any, items: Iterable[Any], threads: int | None) -> Iterator[Any]:
    """Results in order; never more under way than there are threads."""
    workers = threads or os.cpu_count() or 1
    waiting: list[Any] = []
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            if len(waiting) >= workers:
                yield waiting.pop(0).result()
            waiting.append(pool.submit(do, item))
        for future in waiting:
            yield future.result()


def read(path: Path, threads: int | None = None) -> tuple[Header, list[Part]]:
    """A file's header and its tensors, in order. Raises Damaged, or PacklightError where it cannot be read."""
    with _opened(path) as (file, header):
        return header, list(_parts(file, header, threads))


def read_header(path: Path) -> Header:
    """What a file says it holds, its checksum looked at. Raises Damaged, or PacklightError where it cannot be read."""
    with _opened(path) as (_, header):
        return header


class _opened:
    """A file past its header. All of it was read once, for its checksum, in small pieces."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> tuple[IO[bytes], Header]:
        try:
            self.file = open(self.path, "rb")
        except OSError as error:
            raise PacklightError(f"cannot read {self.path}: {error.strerror or error}") from error
        try:
            return self.file, _read_header(self.file)
        except BaseException:
            self.file.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self.file.close()


def _read_header(file: IO[bytes]) -> Header:
    start = file.read(8)
    if start[:3] != MAGIC[:3]:
        raise Damaged(f"it is no {SUFFIX} file")
    if start[:4] != MAGIC:
        raise Damaged(f"it has format {start[3] if len(start) > 3 else '?'}, this packlight reads {MAGIC[3]}")
    crc, size = 0, len(start)
    while chunk := file.read(_CHUNK):
        crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    if crc != int.from_bytes(start[4:], "little") or len(start) < 8:
        raise Damaged("its checksum does not fit")
    file.seek(8)
    head = Fields(file.read(min(size, _MOST_HEADER)))
    raw, length = head.whole(_MOST_TEXT), head.whole(_MOST_HEADER)
    if raw > _FREE_TEXT + _TEXT_PER_BYTE * length:
        raise Damaged(f"{length:,} bytes of header would become {raw:,}")
    many = head.whole(_MOST_ENTRIES)
    lines = [(head.whole(_MOST_ENTRIES), head.take(1)[0], head.whole(size), head.take(4)) for _ in range(many)]
    if sum(line[2] for line in lines) > size or sum(line[0] for line in lines) > _MOST_ENTRIES:
        raise Damaged("its streams are longer, or hold more, than it can")
    text = "\n" + _decoded(read_text(head.take(length), raw))
    listed, end, document = text.partition("\n\n")
    if not end:
        raise Damaged("its list of tensors does not end")
    entries = [_entry(line) for line in listed.split("\n")[1:]]
    if sum(line[0] for line in lines) != len(entries):
        raise Damaged("its streams do not hold the tensors that it lists")
    if len({e.name for e in entries}) < len(entries):
        raise Damaged("two of its tensors have one name")
    unpacked = sum(e.count * TYPES[e.dtype].bytes for e in entries)
    if unpacked > _FREE + _PER_BYTE * size:
        raise Damaged(f"{size:,} bytes would become {unpacked:,}")
    streams, at = [], 0
    for many, coder, bytes_, crc_ in lines:
        if coder not in Coder.__members__.values():
            raise Damaged(f"unknown coder {coder}")
        streams.append(Stream(tuple(entries[at : at + many]), Coder(coder), bytes_, int.from_bytes(crc_, "little")))
        at += many
    file.seek(8 + head.at)
    return Header(document, tuple(streams), length, 8 + head.at - length)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Damaged("its header is no text") from error


def _entry(line: str) -> Entry:
    name, _, rest = line.rpartition(" ")
    name, _, dtype = name.rpartition(" ")
    sizes = [int(s) if _SIZE.fullmatch(s) else -1 for s in rest.split(",")] if rest else []
    if dtype not in TYPES or name in ("", _TAKEN) or min(sizes, default=0) < 0 or len(sizes) > 16:
        raise Damaged(f"it lists a tensor {line[:80]!r}")
    if math.prod(max(1, size) for size in sizes) > _MOST_ELEMENTS:
        raise Damaged(f"it lists a tensor of more than {_MOST_ELEMENTS:,} elements: {line[:80]!r}")
    return Entry(name, dtype, tuple(sizes))


def _parts(file: IO[bytes], header: Header, threads: int | None) -> Iterator[Part]:
    def one(given: tuple[Stream, bytes]) -> list[Part]:
        stream, data = given
        if len(data) != stream.size or zlib.crc32(data) != stream.crc:
            raise Damaged("a stream's checksum does not fit")
        return read_stream(data, stream.entries, stream.coder)

    for parts in _in_threads(one, ((s, file.read(s.size)) for s in header.streams), threads):
        yield from parts

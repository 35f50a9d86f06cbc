"""`.plt` files that no writer makes: pieces of real ones changed and put together again, checksums repaired, so that
the change reaches the decoders behind them."""

import random
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from packlight.codec.container import MAGIC
from packlight.codec.fields import Fields, whole
from packlight.codec.forms import TYPES
from packlight.codec.text import read_text, write_text

EDGES = [0, 1, 2, 3, 127, 128, 255, 256, 4095, 4096, 4097, 65535, 65536, 1 << 20, (1 << 22) + 9, 1 << 24, (1 << 31) - 1,
         1 << 32, 1 << 40, 1 << 48, (1 << 61) + 1, 1 << 62, (1 << 63) - 1]  # fmt: skip
ENDLESS = b"\xff" * 9 + b"\x01"


@dataclass(frozen=True)
class Pieces:
    """text: of the header. lines: of each stream its number of tensors and its coder. streams: their bytes."""

    text: bytes
    lines: tuple[tuple[int, int], ...]
    streams: tuple[bytes, ...]


def pieces_of(path: Path) -> Pieces:
    fields = Fields(path.read_bytes())
    fields.take(8)
    length, coded, many = fields.whole(), fields.whole(), fields.whole()
    lines = [(fields.whole(), fields.take(1)[0], fields.whole(), fields.take(4)) for _ in range(many)]
    text = read_text(fields.take(coded), length)
    streams = tuple(fields.take(size) for _, _, size, _ in lines)
    return Pieces(text, tuple((tensors, coder) for tensors, coder, _, _ in lines), streams)


def put_together(pieces: Pieces, draw: random.Random | None = None) -> bytes:
    """A file with right checksums. draw: one of the header's numbers is changed."""
    coded = write_text(pieces.text)
    numbers = [len(pieces.text), len(coded), len(pieces.lines)]
    for (tensors, coder), stream in zip(pieces.lines, pieces.streams, strict=True):
        numbers += [tensors, coder, len(stream)]
    written = [whole(n) for n in numbers]
    if draw:
        at = draw.randrange(len(written))
        near = max(0, numbers[at] + draw.choice([-1, 1]))
        written[at] = draw.choice([whole(near), whole(near), whole(draw.choice(EDGES)), ENDLESS])
    crcs = iter([zlib.crc32(stream).to_bytes(4, "little") for stream in pieces.streams])
    head = b"".join(made + (next(crcs) if i > 2 and i % 3 == 2 else b"") for i, made in enumerate(written))
    return repaired(MAGIC + bytes(4) + head + coded + b"".join(pieces.streams))


def repaired(file: bytes) -> bytes:
    return file[:4] + zlib.crc32(file[8:]).to_bytes(4, "little") + file[8:]


def forged(pieces: Pieces, draw: random.Random) -> bytes:
    """Another file, made in one of the ways in which they go wrong."""
    match draw.choices(["damaged", "repaired", "stream", "text", "number"], [1, 1, 5, 2, 1])[0]:
        case "damaged":
            return changed(put_together(pieces), draw)
        case "repaired":
            return repaired(changed(put_together(pieces), draw))
        case "stream":
            at = draw.randrange(len(pieces.streams))
            made = changed(pieces.streams[at], draw)
            lines = [(n, draw.choice([0, 0, 0, 0, 1, 2]) ^ coder) for n, coder in pieces.lines]
            return put_together(replace(pieces, streams=(*pieces.streams[:at], made, *pieces.streams[at + 1 :]),
                                        lines=tuple(lines)))  # fmt: skip
        case "text":
            return put_together(replace(pieces, text=changed_text(pieces.text, draw)))
    return put_together(pieces, draw)


def changed(data: bytes, draw: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at = draw.randrange(min(len(made), draw.choice([8, 40, 1 << 20])) + 1)
        length = draw.choice([1, 1, 2, 7, 40])
        match draw.choice(["flip", "byte", "cut", "delete", "insert", "double", "number"]):
            case "flip" if at < len(made):
                made[at] ^= 1 << draw.randrange(8)
            case "byte":
                made[at : at + 1] = bytes([draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])])
            case "cut":
                del made[len(made) - min(len(made), draw.choice([1, 2, 7, len(made) - at])) :]
            case "delete":
                del made[at : at + length]
            case "insert":
                made[at:at] = draw.choice([draw.randbytes(length), b"\xff" * length, bytes(length)])
            case "double":
                made[at:at] = made[at : at + length]
            case "number":
                made[at : at + 1] = draw.choice([whole(draw.choice(EDGES)), ENDLESS])
    return bytes(made)


def changed_text(text: bytes, draw: random.Random) -> bytes:
    listed, end, document = text.partition(b"\n\n")
    lines = listed.split(b"\n")
    at = draw.randrange(len(lines))
    name, dtype, sizes = [*lines[at].split(b" "), b"", b""][:3]
    match draw.choice(["size", "size", "sizes", "type", "twice", "gone", "bytes", "end"]):
        case "size":
            parts = sizes.split(b",")
            parts[draw.randrange(len(parts))] = str(draw.choice([*EDGES, 3, 5, 10, 64, 200])).encode()
            sizes = b",".join(parts)
        case "sizes":
            sizes = draw.choice([b"", b",", b"07", b"3,", b"-1", b"1," * 16 + b"1", b"0," * 15 + b"0",
                                 b"0," + b"9999999999," * 9 + b"1", sizes + b",1", b"1," + sizes])  # fmt: skip
        case "type":
            dtype = draw.choice([*TYPES, "float128", ""]).encode()
        case "twice":
            lines.insert(at, lines[at])
        case "gone":
            end = draw.choice([b"", b"\n", end])
        case "bytes":
            return changed(text, draw)
        case "end":
            document = changed(document, draw)
    lines[at] = b" ".join([name, dtype, sizes])
    return b"\n".join(lines) + end + document

"""Messages between a process and its child: a JSON header and raw arrays, nothing that could run code.

A frame is the header's length (8 bytes, little-endian), the header as UTF-8 JSON, whose "arrays" entry lists
dtype and shape of each array, and then the arrays' bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from packlight.errors import PacklightError

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 1 << 26
_MAX_ARRAYS = 1 << 36
_MAX_AXES = 64
_KINDS = "biufc"  # booleans, integers, floats, complex numbers


def pack(header: dict[str, Any], arrays: Sequence[Any] = ()) -> list[bytes | memoryview]:
    """A JSON object and numpy arrays as the pieces of one frame. PacklightError for arrays of anything but numbers."""
    packed = [np.asarray(a) for a in arrays]
    described: list[tuple[str, list[int]]] = []
    for a in packed:
        if a.dtype.kind not in _KINDS:
            raise PacklightError(f"an array of {a.dtype} cannot be handed over, only numbers and booleans can")
        described.append((a.dtype.str, list(a.shape)))
    if sum(a.nbytes for a in packed) > _MAX_ARRAYS:
        raise PacklightError(f"arrays of more than {_MAX_ARRAYS / 1e9:.0f} GB in all; use a smaller batch")
    text = json.dumps({**header, "arrays": described}).encode()
    return [_LENGTH.pack(len(text)), text, *(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data for a in packed)]


def write_frame(stream: BinaryIO, header: dict[str, Any], arrays: Sequence[Any] = ()) -> None:
    """Send a JSON object and numpy arrays."""
    for piece in pack(header, arrays):
        stream.write(piece)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], list[Any]]:
    """Receive one message; EOFError when the other side is gone or sends anything else."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size).tobytes())
    if length > _MAX_HEADER:
        raise EOFError("the other side sent no message of ours: its header is too long")
    try:
        header = json.loads(_exactly(stream, length).tobytes())
        described = [_described(*a) for a in header.pop("arrays")]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise EOFError(f"the other side sent no message of ours: {type(error).__name__}") from error
    if sum(kind.itemsize * math.prod(shape) for kind, shape in described) > _MAX_ARRAYS:
        raise EOFError("the other side announced arrays that are too large")
    arrays = []
    for kind, shape in described:
        arrays.append(_exactly(stream, kind.itemsize * math.prod(shape)).view(kind).reshape(shape))
    return header, arrays


def _described(dtype: str, shape: list[int]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    kind = np.dtype(str(dtype))
    if kind.kind not in _KINDS:
        raise ValueError("arrays hold numbers or booleans")
    if len(shape) > _MAX_AXES or not all(type(n) is int and 0 <= n <= _MAX_ARRAYS for n in shape):
        raise ValueError("an array's shape is a list of sizes")
    return kind, tuple(shape)


def _exactly(stream: BinaryIO, size: int) -> Any:
    """The next `size` bytes as a uint8 array; memory is taken as they arrive."""
    try:
        content = np.empty(size, np.uint8)
    except MemoryError as error:
        raise EOFError(f"the other side announced {size / 1e9:.1f} GB, more than fits into memory") from error
    view = content.data
    got = 0
    while got < size:
        n = stream.readinto(view[got:])  # type: ignore[attr-defined]
        if not n:
            raise EOFError("the other side closed the connection")
        got += n
    return content

"""Messages between a process and its child: a JSON header and raw arrays, nothing that could run code."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 1 << 26


def write_frame(stream: BinaryIO, header: dict[str, Any], arrays: Sequence[Any] = ()) -> None:
    """Send a JSON object and numpy arrays."""
    arrays = [np.ascontiguousarray(a) if np.ndim(a) else np.asarray(a) for a in arrays]
    described = [[a.dtype.str, list(a.shape)] for a in arrays]
    text = json.dumps({**header, "arrays": described}).encode()
    stream.write(_LENGTH.pack(len(text)))
    stream.write(text)
    for a in arrays:
        stream.write(a.tobytes() if a.ndim == 0 else a.reshape(-1).view(np.uint8).data)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], list[Any]]:
    """Receive one message; EOFError when the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > _MAX_HEADER:
        raise EOFError("the other side sent no message of ours")
    header: dict[str, Any] = json.loads(_exactly(stream, length))
    arrays = []
    for dtype, shape in header.pop("arrays"):
        kind = np.dtype(dtype)
        content = _exactly(stream, kind.itemsize * int(np.prod(shape, dtype=np.int64)))
        arrays.append(np.frombuffer(content, kind).reshape(shape))
    return header, arrays


def _exactly(stream: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    got = 0
    while got < size:
        n = stream.readinto(view[got:])  # type: ignore[attr-defined]
        if not n:
            raise EOFError("the other side closed the connection")
        got += n
    return content

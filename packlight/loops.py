"""Loops that are compiled where numba is there and run as plain Python where it is not: the same source, so the same
answers. Integers in them fit in 63 bits; `>>` rounds towards minus infinity in both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from packlight.errors import PacklightError
from packlight.files import cache_folder, make_folder

F = TypeVar("F", bound=Callable[..., Any])
INTERPRETED = "PACKLIGHT_INTERPRETED"  # set: do without numba


def _has_numba() -> bool:
    if os.environ.get(INTERPRETED):
        return False
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def _kept_in(folder: Path) -> str:
    """Where the compiled loops of a folder stay for the next process, "" for nowhere; numba asks only whether a
    function's own file has changed, so it is another place when any of them has."""
    base = cache_folder()
    if base is None:
        return ""
    seen = hashlib.sha256()
    for source in (Path(__file__), *sorted(folder.glob("*.py"))):
        seen.update(source.read_bytes())
    kept = base / "loops" / seen.hexdigest()[:16]
    try:
        make_folder(kept)
    except PacklightError:
        return ""
    return str(kept)


COMPILED = _has_numba()


def loop(function: F) -> F:
    """A function of integers and arrays of integers, compiled at its first call; without numba, as it is."""
    return _compiled(function, inline="never")


def inlined(function: F) -> F:
    """A `loop` whose code stands wherever another calls it: handing arrays over costs more than a bit's arithmetic."""
    return _compiled(function, inline="always")


def _compiled(function: F, **how: Any) -> F:
    if not COMPILED:
        return function
    import numba

    settings: Any = numba.config
    theirs, kept = settings.CACHE_DIR, _kept_in(Path(function.__code__.co_filename).parent)
    try:
        settings.CACHE_DIR = kept
        made: F = numba.njit(cache=bool(kept), nogil=True, **how)(function)
    finally:
        settings.CACHE_DIR = theirs
    return made


def numbers(values: np.ndarray | Sequence[int], kind: Any = np.int64) -> Any:
    """Integers [n] of a kind in the form that loops work on: an array, or a list where they are interpreted."""
    array = np.ascontiguousarray(values, dtype=kind)
    return array if COMPILED else array.tolist()


def octets(values: bytes | bytearray | int) -> Any:
    """Bytes, or so many empty ones, in the form that loops read and write."""
    if not COMPILED:
        return bytearray(values)
    return np.zeros(values, np.uint8) if isinstance(values, int) else np.frombuffer(bytearray(values), np.uint8)

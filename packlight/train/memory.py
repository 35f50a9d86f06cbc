"""Freed memory kept for the next step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

# <malloc.h> of glibc: option numbers of mallopt, and its defaults (mallopt(3)).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65_536}
_KEEPING = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Have the C library keep what tensors free, and give it back to the system at the end.

    glibc maps every block of more than some megabytes anew and unmaps it when it is freed, so each training step pays a
    page fault for every 4 KiB of activations. Nothing is changed elsewhere than on glibc, or where the environment has
    settings of its own (MALLOC_…). It is a setting of the whole process.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        yield
        return
    library = ctypes.CDLL(None)
    for option, value in _KEEPING.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            library.mallopt(option, value)
        library.malloc_trim(0)

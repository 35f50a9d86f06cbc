"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from packlight.errors import PacklightError


def replace_file(path: Path, write: Callable[[str], object]) -> None:
    """Have `write` fill a temporary file in the same folder, flush it to disk, and rename it over `path`."""
    if not path.parent.is_dir():
        raise PacklightError(f"cannot write {path}: folder {path.parent} does not exist")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise PacklightError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    replace_file(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def make_folder(folder: Path) -> None:
    """Create an output folder, or say why it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise PacklightError(f"cannot write to folder {folder}: {error.strerror or error}") from error


def cache_folder() -> Path | None:
    """Where packlight may keep what it can find out again: $PACKLIGHT_CACHE, else `packlight` in the user's cache
    folder; None of a user without a folder."""
    if given := os.environ.get("PACKLIGHT_CACHE"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA"):
        return Path(base) / "packlight"
    try:
        return Path.home() / ".cache" / "packlight"
    except RuntimeError:
        return None


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    seen = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            seen.update(chunk)
    return seen.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

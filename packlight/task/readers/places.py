"""Where data lie on this machine, and how much of a stranger's folder is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from packlight.errors import PacklightError

# Where a distribution's own package puts the data, if it has one.
SYSTEM = {
    "fashion-mnist": "/usr/share/datasets/fashion-mnist",
    "mandarin-tones": "/usr/share/gcin-voice/ogg",
}
_MOST_FILES = 100_000


def find_folder(name: str) -> Path:
    """The folder `name` in $PACKLIGHT_DATA or ./.data, else the system's; docs/data.md says how to get it."""
    places = [Path(place) / name for place in (os.environ.get("PACKLIGHT_DATA", ""), ".data") if place]
    system = SYSTEM.get(name)
    for place in (*places, *([Path(system)] if system else [])):
        if place.is_dir():
            return place
    where = f"$PACKLIGHT_DATA, ./.data or {system}" if system else "$PACKLIGHT_DATA or ./.data"
    raise PacklightError(f"no folder {name!r} in {where}; packlight's `scripts/get_data.sh {name}` puts it in ./.data")


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes; anything else is a PacklightError that names it."""
    try:
        if path.exists() and not path.is_file():
            raise PacklightError(f"{path} is no regular file")
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise PacklightError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > most:
        raise PacklightError(f"{path} is larger than {most:,} bytes, more than any file of this data set")
    return content


def read_files(folder: Path, pattern: str, most: int, total: int) -> Iterator[tuple[Path, bytes]]:
    """Each file under `folder` that fits `pattern`, in the order of paths, with its content.

    most, total: bytes a file and bytes of all files together. Raises PacklightError where there is none,
    or more than that.
    """
    paths = []
    for path in folder.glob(pattern):
        paths.append(path)
        if len(paths) > _MOST_FILES:
            raise PacklightError(f"{folder} holds more than {_MOST_FILES:,} files {pattern}: not the expected data set")
    if not paths:
        raise PacklightError(f"{folder} holds no file {pattern}; remove it and fetch it again (docs/data.md says how)")
    left = total
    for path in sorted(paths):
        content = read_file(path, most)
        left -= len(content)
        if left < 0:
            raise PacklightError(f"{folder} holds more than {total:,} bytes of {pattern}: not the expected data set")
        yield path, content


def sentence_encoder_files() -> dict[str, Path]:
    """all-MiniLM-L6-v2 (Apache-2.0) on this machine: its files `model.safetensors`, `tokenizer.json`, `config.json`.

    Raises PacklightError when the folder `sentence-encoder` or one of the files is missing.
    """
    folder = find_folder("sentence-encoder")
    files = {name: folder / name for name in ("model.safetensors", "tokenizer.json", "config.json")}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise PacklightError(
            f"{folder} lacks {', '.join(missing)}; remove it and run `scripts/get_data.sh sentence-encoder`"
        )
    return files

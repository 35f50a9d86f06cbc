"""What commands write: checked before any work, told at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from packlight.cli import show
from packlight.errors import PacklightError

if TYPE_CHECKING:
    from packlight.model import Model


def wrote(out: Path, made: Model, as_json: bool) -> None:
    if as_json:
        show.as_json({"wrote": str(out), "model": repr(made), "notes": list(made.notes)})
        return
    for note in made.notes:
        show.line(f"note: {note}")
    show.line(f"wrote {out}: {made!r}")


def check_file(out: Path) -> None:
    """Refuse a .plm output before any work starts."""
    from packlight.files import make_folder

    if out.suffix != ".plm":
        raise PacklightError(f"--out {out}: networks are saved as .plm files; `packlight export` writes other formats")
    if out.is_dir():
        raise PacklightError(f"cannot write {out}: it is a folder")
    if not out.parent.is_dir():
        raise PacklightError(f"cannot write {out}: folder {out.parent} does not exist")
    make_folder(out.parent)


def check_page(path: Path | None, option: str) -> None:
    """Refuse a page that cannot be written before any work starts."""
    if path is None:
        return
    if path.suffix != ".html":
        raise PacklightError(f"{option} {path}: it is a page; name it {path.stem or 'page'}.html")
    if path.is_dir() or not path.parent.is_dir():
        raise PacklightError(f"cannot write {path}: " + (
            "it is a folder" if path.is_dir() else f"folder {path.parent} does not exist"
        ))  # fmt: skip


@contextmanager
def folder(out: Path) -> Iterator[None]:
    """An output folder that can be written to, made now; when the work fails, none is left that was not there."""
    from packlight.files import make_folder

    missing = [p for p in (out, *out.parents) if not p.exists()]
    make_folder(out)
    try:
        yield
    except BaseException:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise

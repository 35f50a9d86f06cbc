"""Model → Artifact, through a child process."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packlight.errors import ChildFailure, PacklightError
from packlight.files import make_folder, sha256
from packlight.model import Model
from packlight.targets.artifact import Artifact
from packlight.targets.contract import Target
from packlight.targets.host import Child
from packlight.targets.manifest import FORMAT, as_text, manifest_path, replace_together

EXPORT_LIMIT_S = 600.0


def export(
    model: Model,
    path: str | Path,
    target: Target,
    *,
    form: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    exporter: Child | None = None,
    time_limit: float = EXPORT_LIMIT_S,
) -> Artifact:
    """Convert a Model for a runtime: the file at `path` and its manifest beside it, both whole or not at all.

    form: one of the target's weight forms, default its first. preprocessing: JSON values for the manifest.
    exporter: a child to convert in, when several conversions follow one another; else one is made. time_limit:
    seconds.
    """
    path = Path(path)
    form = form or target.forms[0]
    manifest = _describe(model, target, form, preprocessing or {})
    _check(path, target, form, manifest)
    with _temporary_folder() as folder, _child(exporter, target) as child:
        source, made = folder / "model.plm", folder / f"made{target.suffix}"
        model.save(source)
        facts, _ = child.call(
            "write", model=str(source), path=str(made), form=form, dims=model.dims, time_limit=time_limit
        )
        if not made.is_file():
            raise ChildFailure(f"{target.name}: write made no file", child.last_words())
        manifest["files"] = {path.name: {"bytes": made.stat().st_size, "sha256": sha256(made)}}
        manifest["versions"] = facts["versions"]
        text = as_text(manifest).encode()
        replace_together([
            (manifest_path(path), lambda temporary: Path(temporary).write_bytes(text)),
            (path, lambda temporary: shutil.copyfile(made, temporary)),
        ])  # fmt: skip
    return Artifact(path, target, manifest)


def _describe(model: Model, target: Target, form: str, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest, but for what only the finished file tells."""
    return {
        "packlight": FORMAT,
        "name": model.name,
        "target": target.name,
        "form": form,
        "files": {},
        "versions": {},
        "inputs": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in model.inputs],
        "outputs": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in model.outputs],
        "dims": model.dims,
        "limits": {name: list(limits) for name, limits in model.limits.items()},
        "recipe": [{"name": s.name, "version": s.version, "options": dict(s.options)} for s in model.lineage],
        "preprocessing": dict(preprocessing),
        "notes": list(model.notes),
    }


def _check(path: Path, target: Target, form: str, manifest: Mapping[str, Any]) -> None:
    """Refuse what cannot work before any work starts."""
    target.require()
    if form not in target.forms:
        raise PacklightError(f"target {target.name!r} has no form {form!r}; choose one of {', '.join(target.forms)}")
    if path.suffix != target.suffix:
        raise PacklightError(f"{target.name} files end in {target.suffix!r}, got {path.name!r}")
    if path.is_dir():
        raise PacklightError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise PacklightError(f"cannot write {path}: folder {path.parent} does not exist")
    make_folder(path.parent)
    try:
        as_text(manifest)
    except (TypeError, ValueError) as error:
        raise PacklightError(f"preprocessing must be JSON values: {error}") from error


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="packlight-", ignore_cleanup_errors=True)
    except OSError as error:
        raise PacklightError(
            f"cannot make a temporary folder: {error.strerror or error}; set TMPDIR to a folder with room"
        ) from error
    with folder as path:
        yield Path(path)


@contextlib.contextmanager
def _child(exporter: Child | None, target: Target) -> Iterator[Child]:
    if exporter is not None:
        yield exporter
        return
    with Child(target) as child:
        yield child

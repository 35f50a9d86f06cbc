"""Model → Artifact, through a child process."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.files import replace_file, sha256, write_text
from packlight.model import Model
from packlight.targets.artifact import FORMAT, Artifact, manifest_path
from packlight.targets.contract import Target
from packlight.targets.host import Child

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

    form: one of the target's weight forms, default its first. exporter: a child to convert in, when several
    conversions follow one another; else one is made. time_limit: seconds.
    """
    path = Path(path)
    form = form or target.forms[0]
    if form not in target.forms:
        raise PacklightError(f"target {target.name!r} has no form {form!r}; choose one of {', '.join(target.forms)}")
    if path.suffix != target.suffix:
        raise PacklightError(f"{target.name} files end in {target.suffix!r}, got {path.name!r}")
    if not path.parent.is_dir():
        raise PacklightError(f"cannot write {path}: folder {path.parent} does not exist")
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder, _child(exporter, target) as child:
        source, made = Path(folder) / "model.plm", Path(folder) / f"made{target.suffix}"
        model.save(source)
        facts, _ = child.call(
            "write", model=str(source), path=str(made), form=form, dims=model.dims, time_limit=time_limit
        )
        replace_file(path, lambda temporary: Path(temporary).write_bytes(made.read_bytes()))
    manifest = {
        "packlight": FORMAT,
        "name": model.name,
        "target": target.name,
        "form": form,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}},
        "versions": facts["versions"],
        "inputs": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in model.inputs],
        "outputs": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in model.outputs],
        "dims": model.dims,
        "recipe": [{"name": s.name, "version": s.version, "options": dict(s.options)} for s in model.lineage],
        "preprocessing": dict(preprocessing or {}),
        "notes": list(model.notes),
    }
    write_text(manifest_path(path), json.dumps(manifest, indent=2) + "\n")
    return Artifact(path, target, manifest)


@contextlib.contextmanager
def _child(exporter: Child | None, target: Target) -> Iterator[Child]:
    if exporter is not None:
        yield exporter
        return
    with Child(target) as child:
        yield child

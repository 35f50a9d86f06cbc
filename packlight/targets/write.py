"""Model → Artifact, through a child process."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from packlight.errors import ChildFailure, PacklightError
from packlight.files import make_folder, sha256
from packlight.model import Model
from packlight.model.spec import TensorSpec
from packlight.targets.adapt import adapted
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
    dims: Mapping[str, int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    exporter: Child | None = None,
    time_limit: float = EXPORT_LIMIT_S,
) -> Artifact:
    """Convert a Model for a runtime: the file at `path`, what belongs to it, and its manifest beside it, all whole or
    not at all.

    form: one of the target's weight forms, default its first. dims: sizes of dynamic dimensions, which a runtime that
    keeps none is given as fixed ones; default: a batch of one, and of the others the sizes that the Model was loaded
    with. preprocessing: JSON values for the manifest.
    exporter: a child to convert in, when several conversions follow one another; else one is made. time_limit:
    seconds.
    """
    path = Path(path)
    form = form or target.forms[0]
    sizes = _sizes(model, dims or {})
    model, dropped = adapted(model, target.numerics)
    manifest = _describe(model, target, form, preprocessing or {}, {} if target.keeps_dynamic else sizes)
    _check(path, target, form, manifest)
    with _temporary_folder() as folder, _child(exporter, target) as child:
        source, place = folder / "model.plm", folder / "made"
        place.mkdir()
        made = place / f"{path.stem}{target.suffix}"
        model.save(source)
        facts, _ = child.call("write", model=str(source), path=str(made), form=form, dims=sizes, time_limit=time_limit)
        if not made.is_file():
            raise ChildFailure(f"{target.name}: write made no file", child.last_words())
        files = [made, *sorted(p for p in place.iterdir() if p != made)]
        manifest["files"] = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}
        manifest["versions"] = facts["versions"]
        unseen = [f"not run: predictions need {target.elsewhere}"] if target.elsewhere else []
        manifest["notes"] += [*dropped, *facts["notes"], *unseen]
        text = as_text(manifest).encode()
        replace_together([
            (manifest_path(path), lambda temporary: Path(temporary).write_bytes(text)),
            *((path.parent / p.name, partial(shutil.copyfile, p)) for p in files),
        ])  # fmt: skip
    return Artifact(path, target, manifest)


def _sizes(model: Model, given: Mapping[str, int]) -> dict[str, int]:
    """A size for every dynamic dimension."""
    unknown = sorted(given.keys() - model.dims.keys())
    if unknown:
        known = ", ".join(model.dims) or "none"
        raise PacklightError(f"{model.name} has no dynamic dimension {unknown[0]!r}; it has {known}")
    shape = model.inputs[0].shape if model.inputs else ()
    batch = {shape[0]: max(1, model.limits.get(shape[0], (1, 1))[0])} if shape and isinstance(shape[0], str) else {}
    sizes = {**model.dims, **batch, **given}
    for name, (low, high) in model.limits.items():
        if not low <= sizes[name] <= high:
            raise PacklightError(f"dimension {name!r} is {sizes[name]}, {model.name} takes {low} to {high}")
    if none := next((n for n, size in sizes.items() if size < 1), None):
        raise PacklightError(f"dimension {none!r} is {sizes[none]}, a size is >= 1")
    return sizes


def _describe(
    model: Model, target: Target, form: str, preprocessing: Mapping[str, Any], fixed: Mapping[str, int]
) -> dict[str, Any]:
    """The manifest, but for what only the finished file tells. fixed: sizes of dimensions that are not dynamic."""
    inputs, outputs = _fixed(model, fixed) if fixed else (model.inputs, model.outputs)
    return {
        "packlight": FORMAT,
        "name": model.name,
        "target": target.name,
        "form": form,
        "files": {},
        "versions": {},
        "inputs": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in inputs],
        "outputs": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in outputs],
        "dims": {name: size for name, size in model.dims.items() if name not in fixed},
        "limits": {name: list(limits) for name, limits in model.limits.items() if name not in fixed},
        "recipe": [{"name": s.name, "version": s.version, "options": dict(s.options)} for s in model.lineage],
        "preprocessing": dict(preprocessing),
        "notes": list(model.notes),
    }


def _fixed(model: Model, sizes: Mapping[str, int]) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of a Model with fixed sizes. Where an output's follows from them ("2*batch"), the Model is
    run to see it: an expression out of a file is not evaluated."""
    inputs = [replace(s, shape=s.sizes(sizes)) for s in model.inputs]
    if all(isinstance(d, int) or d in sizes for s in model.outputs for d in s.shape):
        return inputs, [replace(s, shape=s.sizes(sizes)) for s in model.outputs]
    whole = model.copy().eval()
    with torch.inference_mode():
        found = whole.flat(*whole.example_inputs(**sizes))
    return inputs, [replace(s, shape=tuple(t.shape)) for s, t in zip(model.outputs, found, strict=True)]


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

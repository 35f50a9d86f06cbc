"""The manifest of an exported file: JSON facts that say what it is, what it takes, and whether it is whole.

    packlight      version of this format, 1
    name, target, form, versions, recipe, notes, preprocessing
                   what was exported, for which runtime, how and with which packages
    files          file name → {"bytes", "sha256"}; the first is the one that the runtime opens
    inputs         [{"name", "dtype", "shape"}]; a string in a shape is a dynamic dimension
    outputs        the same
    dims, limits   dynamic dimension → a usable size; → [lowest, highest] where not any size will do

A manifest comes from wherever the user got the file, so nothing in it is believed before it is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.files import replace_file

FORMAT = 1
FOLDER_MANIFEST = "manifest.json"
_MAX_BYTES = 1 << 24
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

Facts = Mapping[str, Any]


def manifest_path(file: Path) -> Path:
    """Where the manifest of a single exported file stands: `net.onnx` → `net.manifest.json`."""
    return file.with_name(file.stem + ".manifest.json")


def find(path: Path) -> tuple[Path, Facts]:
    """The manifest for a folder, a manifest or an exported file, and what it says."""
    if path.suffix == ".json" or path.is_dir():
        place = path / FOLDER_MANIFEST if path.is_dir() else path
        if not place.is_file():
            raise PacklightError(f"no manifest {place}: give the folder or file that packlight wrote")
        return place, read(place)
    if not path.is_file():
        raise PacklightError(f"no file or folder {path}")
    for place in (manifest_path(path), path.parent / FOLDER_MANIFEST):
        if place.is_file() and path.name in (manifest := read(place))["files"]:
            return place, manifest
    raise PacklightError(f"no manifest beside {path} lists it: give the folder or file that packlight wrote")


def read(place: Path) -> Facts:
    """A manifest's content, checked."""
    try:
        if place.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        manifest = json.loads(place.read_text(encoding="utf-8"))
        _check(manifest)
    except KeyError as error:
        raise PacklightError(f"{place} is no packlight manifest: it has no {error.args[0]!r}") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PacklightError(f"{place} is no packlight manifest: {' '.join(str(error).split())[:200]}") from error
    return dict(manifest)


def _check(manifest: Any) -> None:
    if not isinstance(manifest, dict):
        raise ValueError("it is not a JSON object")
    if manifest["packlight"] != FORMAT:
        raise ValueError(f"its format is {str(manifest['packlight'])[:40]}, this packlight reads {FORMAT}")
    for key in ("name", "target", "form"):
        if not isinstance(manifest[key], str):
            raise ValueError(f"{key!r} is not text")
    for name, facts in manifest["files"].items():
        if name != Path(name).name or name in ("", ".", "..") or "\\" in name or "\0" in name:
            raise ValueError(f"it names the file {name[:80]!r} outside its folder")
        if type(facts["bytes"]) is not int or not _SHA256.match(facts["sha256"]):
            raise ValueError(f"file {name[:80]!r} needs a size and a sha256")
    if not manifest["files"]:
        raise ValueError("it lists no file")
    for spec in (*manifest["inputs"], *manifest["outputs"]):
        sizes = spec["shape"]
        if not all(isinstance(spec[k], str) for k in ("name", "dtype")) or not isinstance(sizes, list):
            raise ValueError("inputs and outputs need a name, a dtype and a shape")
        if not all(isinstance(n, str) or (type(n) is int and n >= 0) for n in sizes):
            raise ValueError(f"the shape of {spec['name'][:80]!r} is not of sizes and names")
    for low, high in manifest.get("limits", {}).values():
        if not 0 <= low <= high:
            raise ValueError("a dimension's limits are out of order")


def replace_together(files: Sequence[tuple[Path, Callable[[str], object]]]) -> None:
    """Write several files (see `replace_file`); each is complete before the first takes its place."""
    if files:
        (path, write), *rest = files

        def fill(temporary: str) -> None:
            write(temporary)
            replace_together(rest)

        replace_file(path, fill)


def as_text(manifest: Facts) -> str:
    """A manifest as it is written to a file."""
    return json.dumps(manifest, indent=2) + "\n"


def check_arrays(manifest: Facts, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Inputs as numpy arrays, or a PacklightError that says which of them the file does not take."""
    import numpy as np

    name, specs = manifest["name"], manifest["inputs"]
    if len(arrays) != len(specs):
        raise PacklightError(f"{name} takes {len(specs)} inputs ({_names(specs)}), got {len(arrays)}")
    given = tuple(np.asarray(a) for a in arrays)
    dims: dict[str, int] = {}
    for spec, a in zip(specs, given, strict=True):
        takes = f"the file takes {spec['dtype']}[{', '.join(map(str, spec['shape']))}]"
        if str(a.dtype) != spec["dtype"]:
            raise PacklightError(f"input {spec['name']!r} is {a.dtype}, {takes}; convert the data")
        fits = a.ndim == len(spec["shape"]) and all(
            n == (dims.setdefault(want, n) if isinstance(want, str) else want)
            for want, n in zip(spec["shape"], a.shape, strict=True)
        )
        if not fits:
            known = ", ".join(f"{d} = {dims[d]}" for d in spec["shape"] if d in dims)
            raise PacklightError(
                f"input {spec['name']!r} has shape {list(a.shape)}, {takes}{f' with {known}' if known else ''}"
            )
    for dim, (low, high) in manifest.get("limits", {}).items():
        if not low <= dims.get(dim, low) <= high:
            raise PacklightError(f"dimension {dim!r} is {dims[dim]}, {name} takes {low} to {high}")
    return given


def _names(specs: Sequence[Facts]) -> str:
    return ", ".join(s["name"] for s in specs)

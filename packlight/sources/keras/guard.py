"""What a Keras file may hold: checked in its JSON before Keras sees it, so that nothing of a stranger's code is named,
imported or run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from packlight.errors import PacklightError

_MAX_JSON = 1 << 26
_INSTEAD = "rebuild the network in code and give module:factory"


def check_file(path: Path) -> None:
    """Raise PacklightError unless the file is a whole Keras network of Keras' own layers."""
    config = _zip_config(path) if path.suffix.lower() == ".keras" else _h5_config(path)
    for place, found in _objects(config, "the network"):
        kind = found["class_name"]
        if kind in ("Lambda", "__lambda__"):
            raise PacklightError(f"{path}: {place} is a Lambda layer, whose code is not run; {_INSTEAD}")
        module = found.get("module")
        if found.get("registered_name") and module is None and ">" in str(found["registered_name"]):
            raise PacklightError(f"{path}: {place} is {found['registered_name']}, a class of your own; {_INSTEAD}")
        if module is not None and str(module).split(".")[0] != "keras":
            raise PacklightError(f"{path}: {place} is {module}.{kind}, not one of Keras' own; {_INSTEAD}")


def _zip_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as packed:
            whole = sum(entry.file_size for entry in packed.infolist())
            if whole > psutil.virtual_memory().available:
                raise PacklightError(f"{path} claims {whole / 1e9:.1f} GB when unpacked, more than the free memory")
            if packed.getinfo("config.json").file_size > _MAX_JSON:
                raise PacklightError(f"{path}: its config.json is larger than {_MAX_JSON >> 20} MB")
            return json.loads(packed.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RecursionError, EOFError) as error:
        raise PacklightError(f"{path} is not a Keras 3 file, or damaged: {error}") from error


def _h5_config(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as stored:
            text = stored.attrs.get("model_config")
        if text is None:
            raise PacklightError(f"{path} holds weights, and no network; save the whole model, or {_INSTEAD}")
        return json.loads(text)
    except (OSError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise PacklightError(f"{path} is not an HDF5 file of Keras, or damaged: {error}") from error


def _objects(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every serialized object in a config, with the name of the layer that it belongs to."""
    pending = [(value, place)]
    while pending:
        value, place = pending.pop()
        if isinstance(value, list):
            pending += [(v, place) for v in value]
        elif isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                inner = value.get("config")
                own = inner.get("name") if isinstance(inner, dict) else None
                place = f"layer {own!r}" if isinstance(own, str) else place
                yield place, value
            pending += [(v, place) for v in value.values()]

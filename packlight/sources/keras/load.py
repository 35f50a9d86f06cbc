"""Keras files (`.keras`, whole-model `.h5`) → Model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from packlight.errors import MissingRuntime
from packlight.model.model import Model
from packlight.sources.apart import read_apart
from packlight.sources.example import DynamicDims
from packlight.sources.keras.guard import check_file


def from_keras(
    path: Path, example: Any = None, *, dynamic: DynamicDims | None = None, name: str | None = None
) -> Model:
    """A Model of a functional or sequential Keras network, checked beside Keras on random inputs.

    Keras reads the file in a child process, on its torch backend and in safe mode; the settings of yours stay. Inputs
    have the layout of the file (channels last). example: arrays or tensors that say what sizes left open are. Raises
    PacklightError for files with code, unknown layers (all of them named), and weights alone.
    """
    if find_spec("keras") is None:
        raise MissingRuntime("Keras files need Keras: pip install 'packlight[keras]'")
    check_file(path)
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        place = Path(folder)
        call = {"path": str(path.resolve()), "name": name or path.stem, "dynamic": dynamic}
        (place / "call.json").write_text(json.dumps(call))
        if example is not None:
            given = list(example.values()) if isinstance(example, Mapping) else example
            given = given if isinstance(given, Sequence) else [given]
            np.savez(place / "example.npz", *[np.asarray(x) for x in given])
        settings = {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": "", "KERAS_HOME": str(place)}
        read_apart(path, "packlight.sources.keras.child", place, settings)
        return Model.load(place / "made.plm")

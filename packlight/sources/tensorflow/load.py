"""SavedModel folders and `.tflite` files → Model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from packlight.environments import own_environments
from packlight.errors import MissingRuntime, PacklightError
from packlight.model.model import Model
from packlight.sources import from_onnx
from packlight.sources.apart import read_apart

_ENVIRONMENT = "tensorflow"
_INSTALL = "packlight targets install tensorflow"
_EXACT, _IN_INTEGERS = 1e-3, 0.05  # of the largest magnitude of an output


def from_tensorflow(path: Path, example: Any = None, *, name: str | None = None, **options: Any) -> Model:
    """A Model of a SavedModel folder (its signature serving_default, or its only one) or of a `.tflite` file, compared
    with TensorFlow on random inputs.

    TensorFlow and tf2onnx read it in a child process, in an environment of their own, after a look for operators that
    reach out of the graph. Inputs have the layout of the file (channels last). options: as of `from_onnx`. Raises
    MissingRuntime where that environment is not there, PacklightError for what cannot be read or is not the same.
    """
    environments = own_environments()
    if why := environments.missing(_ENVIRONMENT):
        raise MissingRuntime(f"{path} is read with TensorFlow, in an environment of its own, {why}; run: {_INSTALL}")
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        place = Path(folder)
        (place / "call.json").write_text(json.dumps({"path": str(path.resolve()), "saved": path.is_dir()}))
        if example is not None:
            np.savez(place / "example.npz", *_arrays(example))
        settings = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "HOME": str(place)}
        python = environments.interpreter(_ENVIRONMENT)
        read_apart(path, "packlight.sources.tensorflow.child", place, settings, python)
        model = from_onnx(place / "made.onnx", example, name=name or path.stem, **options)
        _compare(model, place / "proof.npz")
        return model


def _arrays(example: Any) -> list[Any]:
    given = list(example.values()) if isinstance(example, Mapping) else example
    return [np.asarray(x) for x in (given if isinstance(given, list | tuple) else [given])]


def _compare(model: Model, proof: Path) -> None:
    """What the Model gives for inputs that TensorFlow answered. Integers inside may be a step off here and there."""
    with np.load(proof) as arrays:
        inputs = {spec.name: torch.from_numpy(arrays[f"in {spec.name}"]) for spec in model.inputs}
        wanted = [arrays[f"out {spec.name}"] for spec in model.outputs]
    most = _IN_INTEGERS if model.is_quantized else _EXACT
    with torch.no_grad():
        found = model.flat(*inputs.values())
    for spec, one, other in zip(model.outputs, wanted, found, strict=True):
        if one.shape != tuple(other.shape):
            raise PacklightError(
                f"output {spec.name}: TensorFlow gives {list(one.shape)}, the Model {list(other.shape)}"
            )
        theirs, ours = one.astype(np.float64), other.numpy().astype(np.float64)
        worst = float(np.abs(theirs - ours).max(initial=0.0)) / (float(np.abs(theirs).max(initial=0.0)) + 1e-12)
        if not worst <= most:
            raise PacklightError(
                f"output {spec.name} differs from TensorFlow's by {worst:.2g} of its largest magnitude"
            )

"""Any network comes in: `load`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from packlight import codec
from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.file import SUFFIX
from packlight.sources import (
    from_hugging_face,
    from_keras,
    from_module,
    from_onnx,
    from_pt2,
    from_tensorflow,
    from_torchscript,
    is_tensorflow,
    load_weights,
)

Source = Model | nn.Module | str | os.PathLike[str]

_FACTORY = "module:factory, a function of yours that returns (module, example_inputs)"
_KERAS = (".keras", ".h5", ".hdf5")
_SCRIPTS = (".pt", ".pth", ".ts", ".torchscript")
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def load(
    source: Source,
    example_inputs: Any = None,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    constants: Mapping[str, Any] | None = None,
    operators: Mapping[tuple[str, str], Callable[..., Any]] | None = None,
    name: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> Model:
    """A trained network as a Model.

    source: an nn.Module (with example_inputs: a tensor, a tuple, or a dict of keyword arguments), a saved
    `.plm` or `.plt` file, an `.onnx` file, a `.pt2` file of torch.export.save, a Keras file
    (`.keras`, whole-model `.h5`; example_inputs where it leaves sizes open), TorchScript (with example_inputs),
    "module:factory", a function of yours that returns a module and its example inputs, or a folder of Hugging Face
    (config.json and model.safetensors), or its id where it is in the local cache, or a SavedModel folder or `.tflite`
    file (`packlight targets install tensorflow` first).
    dynamic: input name → {axis: dimension name}; default: axis 0 of every input is "batch", and what an ONNX file says.
    constants: inputs of an ONNX file that the Model holds instead, by name. operators: (domain, operator) → a function
    that translates an ONNX operator of yours (docs/sources.md). weights: a .safetensors file or a state dict (.pt) for
    the factory's module, every tensor of it. trust: open a `.pt2` file with torch.export.load, which runs code that the
    file holds; else nothing in it is run.
    """
    if weights is not None and not (isinstance(source, str) and _is_factory(source)):
        raise PacklightError(f"weights go with module:factory, which makes the network; got {str(source)[:80]}")
    if isinstance(source, Model):
        return source
    if isinstance(source, nn.Module):
        if example_inputs is None:
            raise PacklightError("a torch module needs example_inputs: load(module, torch.zeros(1, 3, 224, 224))")
        return from_module(source, example_inputs, dynamic=dynamic, name=name)
    if not isinstance(source, str | os.PathLike):
        raise PacklightError(
            f"a network is a torch module, a {SUFFIX}, {codec.SUFFIX}, .onnx or .pt2 file or {_FACTORY}; "
            f"got {type(source).__name__}"
        )
    path = Path(source)
    if not path.exists() and _is_factory(str(source)):
        module, example = _call_factory(str(source))
        if weights is not None:
            if not isinstance(module, nn.Module):
                raise PacklightError(f"weights go into a torch module; {source} makes a {type(module).__name__}")
            load_weights(module, Path(weights))
        return load(module, example_inputs if example is None else example, dynamic=dynamic, name=name)
    if is_tensorflow(path):
        return from_tensorflow(
            path, example_inputs, dynamic=dynamic, constants=constants, operators=operators, name=name
        )
    if not path.is_file():
        found = from_hugging_face(path, example_inputs, dynamic=dynamic, name=name)
        if found is not None:
            return found
    elif path.suffix.lower() in _SCRIPTS:
        found = from_torchscript(path, example_inputs, dynamic=dynamic, name=name)
        if found is not None:
            return found
    _check_openable(path)
    if path.suffix.lower() == ".onnx":
        return from_onnx(path, example_inputs, dynamic=dynamic, constants=constants, operators=operators, name=name)
    if path.suffix.lower() in _KERAS:
        return from_keras(path, example_inputs, dynamic=dynamic, name=name)
    if example_inputs is not None:
        raise PacklightError(f"{path} says itself what inputs it takes; leave example inputs out")
    if path.suffix.lower() == ".pt2":
        return from_pt2(path, trust=trust, dynamic=dynamic, name=name)
    return codec.load_packed(path) if path.suffix.lower() == codec.SUFFIX else Model.load(path)


def _check_openable(path: Path) -> None:
    kind, wanted = path.suffix.lower(), f"give a {SUFFIX}, {codec.SUFFIX}, .onnx or .pt2 file, or {_FACTORY}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise PacklightError(f"{path} {what}; {wanted}")
    if kind == ".pb":
        raise PacklightError(f"{path}: .pb files are opened with the SavedModel folder that they stand in; give that")
    if kind in _WEIGHTS:
        raise PacklightError(f"{path}: {kind} files hold weights, and code that is not run; give {_FACTORY}, "
                             f"and weights={path.name!r}")  # fmt: skip


def _is_factory(text: str) -> bool:
    module, colon, function = text.partition(":")
    return bool(colon) and function.isidentifier() and all(p.isidentifier() for p in module.split("."))


def _call_factory(text: str) -> tuple[Any, Any]:
    """Run the user's `module:function`, found as Python finds modules, the current folder first."""
    module, _, function = text.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), function)()
    except PacklightError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code runs in there: anything can be raised
        raise PacklightError(f"{text} failed: {type(error).__name__}: {error}") from error
    if isinstance(made, Model | nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made
    raise PacklightError(f"{text} must return a torch module and its example inputs, got {type(made).__name__}")

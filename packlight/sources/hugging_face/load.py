"""A network of transformers or timm in a local folder → Model, with the task head that its config names."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from packlight.errors import PacklightError
from packlight.model.model import Model
from packlight.model.silence import silenced
from packlight.sources.example import DynamicDims
from packlight.sources.hugging_face.bound import bounded
from packlight.sources.hugging_face.folder import (
    companions,
    harmless,
    has_safetensors,
    read_config,
)
from packlight.sources.hugging_face.inputs import example_inputs
from packlight.sources.hugging_face.libraries import require_transformers
from packlight.sources.hugging_face.timm_network import example_picture, is_timm, make_timm
from packlight.sources.torch_module import from_module

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


def from_folder(
    folder: Path, example: Any = None, *, dynamic: DynamicDims | None = None, name: str | None = None
) -> Model:
    """A Model of a folder with config.json and model.safetensors, run beside the module as every torch module is.

    example: inputs by name (timm: a picture); default: made from the config. dynamic: as of from_module; default: the
    batch, and of text the number of tokens. Code in the folder is never run, and nothing is fetched.
    """
    config = read_config(folder)
    name = name or folder.resolve().name
    if is_timm(config):
        with silenced(), _offline(), bounded(folder), _one_line(folder):
            network = make_timm(folder, config)
            given = example_picture(network) if example is None else example
        model = from_module(network, given, dynamic=dynamic, name=name)
    else:
        network = make_module(folder, config)
        model = from_transformers(network, example, dynamic=dynamic, name=name, folder=folder)
    model.files, notes = companions(folder)
    model.notes = (*model.notes, *notes)
    return model


def from_transformers(
    module: Any,
    example: Any = None,
    *,
    dynamic: DynamicDims | None = None,
    name: str | None = None,
    folder: Path | None = None,
) -> Model:
    """A Model of a transformers module; tokens stay a dynamic dimension where the network allows it."""
    made, axes = example_inputs(module, folder) if example is None else (example, None)
    if dynamic is not None or axes is None:
        return from_module(module, made, dynamic=dynamic, name=name)
    try:
        return from_module(module, made, dynamic=axes, name=name)
    except PacklightError as error:
        if all(len(a) == 1 for a in axes.values()):
            raise
        model = from_module(module, made, name=name)
        model.notes = (*model.notes, f"the number of tokens is fixed: {error}")
        return model


def make_module(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """The module with its weights, on the CPU in float32; every tensor must be in the files."""
    transformers = require_transformers()
    with silenced(), _offline(), _quiet(), bounded(folder), _one_line(folder):
        kind = _class(transformers, config, folder)
        wanted = transformers.AutoConfig.for_model(str(config.get("model_type", "")), **_arguments(config))
        wanted.use_cache, wanted.return_dict = False, True
        safe = has_safetensors(folder)
        made, told = _read(kind, folder, wanted, safe)
    wrong = {k: sorted(map(str, told.get(f"{k}_keys") or ())) for k in ("missing", "mismatched")}
    for what, names in wrong.items():
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            told_of = f"{len(names)} tensors of {kind.__name__} are {what}"
            raise PacklightError(f"{folder}: {told_of} in its weights ({shown})")
    return made.eval()


def _read(kind: Any, folder: Path, config: Any, safe: bool) -> tuple[Any, Mapping[str, Any]]:
    """The module and what was missing; with torch's fused attention, or the plain one where the network has no such."""
    options: dict[str, Any] = {
        "config": config, "local_files_only": True, "trust_remote_code": False, "use_safetensors": safe,
        "weights_only": True, "output_loading_info": True, "dtype": torch.float32,
    }  # fmt: skip
    try:
        return kind.from_pretrained(str(folder), attn_implementation="sdpa", **options)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error) and "sdpa" not in str(error):
            raise
    return kind.from_pretrained(str(folder), attn_implementation="eager", **options)


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    left_out = ("model_type", "transformers_version", "_name_or_path")
    return {k: v for k, v in harmless(config).items() if k not in left_out}


def _class(transformers: Any, config: Mapping[str, Any], folder: Path) -> Any:
    """The class that `architectures` names, which must be one of transformers' own networks."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        own = " with code of its own, which is not run" if "auto_map" in config else ""
        raise PacklightError(f"{folder}: architecture {str(name)[:80]!r} is none of transformers "
                             f"{transformers.__version__}{own}; give module:factory of your own code")  # fmt: skip
    return found


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    before = {n: os.environ.get(n) for n in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the package's progress bars and advice."""
    import transformers.utils.logging

    theirs: Any = transformers.utils.logging

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except PacklightError:
        raise
    except Exception as error:  # config and weights of any content go through the package's own code
        said = " ".join(str(error).split())[:300]
        raise PacklightError(f"{folder} cannot be opened: {type(error).__name__}: {said}") from error

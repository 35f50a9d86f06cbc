"""Weights in a file, put into a module of the user's: every tensor in its place, or nothing is."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from packlight.errors import PacklightError

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_NESTED = ("state_dict", "model_state_dict", "model")
_SHOWN = 3


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a .safetensors file, or a state dict that torch.save wrote, into a module (in place), strictly.

    Raises PacklightError with the first few names and how many where names are missing, unknown or of other shapes.
    """
    held = read_weights(path)
    wanted = module.state_dict(keep_vars=True)
    if held and not held.keys() & wanted.keys() and all(n.startswith("module.") for n in held):
        held = {n.removeprefix("module."): t for n, t in held.items()}  # DataParallel's own prefix
    stands = {_place(t): n for n, t in wanted.items() if n in held}
    wrong = {
        "missing in it": [n for n, t in wanted.items() if n not in held and _place(t) not in stands],
        "unknown to the network": [n for n in held if n not in wanted],
        "of another shape": [
            f"{n} {list(t.shape)} for {list(wanted[n].shape)}"
            for n, t in held.items()
            if n in wanted and t.shape != wanted[n].shape
        ],
    }
    said = [f"{len(names)} {what} ({_few(names)})" for what, names in wrong.items() if names]
    if said:
        raise PacklightError(f"{path} does not fit {type(module).__name__}: {'; '.join(said)}")
    with torch.no_grad():
        for name, tensor in held.items():
            wanted[name].copy_(tensor)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a file, running nothing in it; PacklightError for other content."""
    kind = path.suffix.lower()
    if not path.is_file():
        raise PacklightError(f"weights {path} are no file")
    if kind == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise PacklightError(f"{path} is no safetensors file or is damaged: {_line(error)}") from error
    if kind not in _PICKLED:
        raise PacklightError(f"weights {path}: give a .safetensors file or a state dict ({', '.join(_PICKLED)})")
    _refuse_bomb(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PacklightError(f"{path} holds more than tensors and plain values, and its code is not run; save "
                             "module.state_dict()") from error  # fmt: skip
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, OSError, IndexError, AttributeError) as error:
        raise PacklightError(f"{path} is no file of torch.save or is damaged: {_line(error)}") from error
    for key in _NESTED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping) or not held or not all(map(_is_plain, held.values())):
        raise PacklightError(f"{path} holds a {type(held).__name__}, no state dict; save module.state_dict()")
    return {str(n): t for n, t in held.items()}


def _refuse_bomb(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(m.file_size for m in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        return  # the older form, which torch reads to its end
    if declared > path.stat().st_size:
        raise PacklightError(f"{path} declares more than the bytes that it holds")


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    """What tensors that a network holds under two names have in common."""
    return tensor.data_ptr() or id(tensor), tuple(tensor.shape)


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

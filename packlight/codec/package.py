"""A Model as a `.plt` file, and back, every bit of every tensor the same."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from packlight.codec.container import Header, read, write
from packlight.codec.fields import Damaged
from packlight.codec.forms import TYPES
from packlight.codec.streams import Coder, Entry, Part
from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.file import describe, restore
from packlight.model.integers import freeze

_DTYPES = {name: getattr(torch, name) for name in TYPES}


def save_packed(model: Model, path: str | os.PathLike[str], coder: Coder = Coder.SMALL) -> Path:
    """Write a Model as a `.plt` file; quantized weights as the integers they are, without their float masters. The
    file appears whole or not at all. Returns the path."""
    path = Path(path)
    document, tensors = describe(freeze(model) if model.is_quantized else model)
    entries = [(_entry(name, tensor), lambda tensor=tensor: _bits(tensor)) for name, tensor in tensors.items()]
    write(path, document, entries, coder)
    return path


def load_packed(path: str | os.PathLike[str]) -> Model:
    """Read a `.plt` file as a Model, or say in one line why it is refused. Nothing in the file is executed."""
    return read_packed(path)[0]


def read_packed(path: str | os.PathLike[str]) -> tuple[Model, Header, list[Part]]:
    """A file's Model, its header, and how each of its tensors was coded, in the header's order."""
    path = Path(path)
    try:
        header, parts = read(path)
    except Damaged as error:
        raise PacklightError(f"{path} is damaged or was not written by packlight: {error}") from error
    except MemoryError as error:
        raise PacklightError(f"{path} needs more memory than there is") from error
    entries = [entry for stream in header.streams for entry in stream.entries]
    tensors = {e.name: _tensor(part.bits, e) for e, part in zip(entries, parts, strict=True)}
    if len(tensors) < len(entries):
        raise PacklightError(f"{path} is refused: two of its tensors have one name")
    return restore(header.document, tensors, path), header, parts


def _entry(name: str, tensor: Tensor) -> Entry:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in TYPES:
        raise PacklightError(f"the file format has no numbers of type {dtype} (tensor {name!r})")
    return Entry(name, dtype, tuple(tensor.shape))


def _bits(tensor: Tensor) -> np.ndarray:
    kind = TYPES[str(tensor.dtype).removeprefix("torch.")].bits
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().view(kind) if len(flat) else np.zeros(0, kind)


def _tensor(bits: np.ndarray, entry: Entry) -> Tensor:
    flat = torch.from_numpy(np.array(bits).view(np.uint8))  # a copy: what was read may be part of a larger array
    if entry.dtype == "bool" and bool((flat > 1).any()):
        raise PacklightError(f"tensor {entry.name!r} holds other than true and false")
    return flat.view(_DTYPES[entry.dtype]).reshape(entry.shape)

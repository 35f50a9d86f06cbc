"""What an ONNX graph takes: names, types and sizes of its inputs, and the sizes at which it is watched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model.spec import Dim, TensorSpec
from packlight.sources.example import DynamicDims
from packlight.sources.onnx.dtypes import torch_dtype

if TYPE_CHECKING:
    import onnx_ir as ir

Points = tuple[dict[str, int], ...]
_BATCHES = (2, 6, 10)
# Sizes of the other dimensions: even enough for strides and skips at first, then smaller ones for networks with few
# positions. Three each, so that what is equal at all of them is a constant.
_LENGTHS = ((64, 96, 160), (32, 48, 80), (16, 24, 40), (8, 12, 20), (4, 6, 10), (2, 3, 5))
_NOT_A_LETTER = re.compile(r"\W")


@dataclass(frozen=True)
class Inputs:
    """specs: one an input. dims: every dynamic dimension and the size that an example has of it, 0 without one.
    batches: those that are some input's first axis."""

    specs: tuple[TensorSpec, ...]
    dims: dict[str, int]
    batches: frozenset[str]

    def points(self) -> list[Points]:
        """Choices of three sizes for every dynamic dimension, the most likely first; an example's own sizes lead."""
        if not self.dims:
            return [({},)]
        others = [d for d in self.dims if d not in self.batches]
        return [self._points(others, lengths) for lengths in (_LENGTHS if others else _LENGTHS[:1])]

    def _points(self, others: Sequence[str], lengths: Sequence[int]) -> Points:
        """Dimensions get sizes of their own, so that equal ones are equal for a reason."""
        made: list[dict[str, int]] = []
        for k in range(3):
            point = {d: _BATCHES[k] + 3 * i for i, d in enumerate(sorted(self.batches))}
            point |= {d: lengths[k] * (1 + i % 2) + lengths[0] // 2 * (i // 2) for i, d in enumerate(others)}
            made.append(point)
        seen = {d: n for d, n in self.dims.items() if n > 1}
        first = made[0] | seen
        return (first, *({d: p[d] if p[d] != first[d] else p[d] + first[d] for d in p} for p in made[1:]))

    def metas(self, points: Points) -> list[list[Tensor]]:
        """Of every input, a tensor without content at every point."""
        return [
            [torch.empty(s.sizes(p), dtype=getattr(torch, s.dtype), device="meta") for p in points] for s in self.specs
        ]

    def fixed(self, dims: Mapping[str, int]) -> Inputs:
        """The same with these dimensions fixed at these sizes."""
        shapes = [tuple(dims.get(d, d) if isinstance(d, str) else d for d in s.shape) for s in self.specs]
        specs = [replace(s, shape=shape) for s, shape in zip(self.specs, shapes, strict=True)]
        left = {d: n for d, n in self.dims.items() if d not in dims}
        return Inputs(tuple(specs), left, self.batches - set(dims))


def read_inputs(values: Sequence[ir.Value], example: Any, dynamic: DynamicDims | None) -> Inputs:
    """The inputs as the file declares them. example: tensors by name or in order, whose sizes are used where the file
    leaves one open. dynamic: as of `load`; it overrules the file."""
    given = _by_name([str(v.name) for v in values], example)
    unknown = set(dynamic or {}) - {str(v.name) for v in values}
    if unknown:
        raise PacklightError(f"dynamic names inputs {sorted(unknown)}, the file has {[v.name for v in values]}")
    specs, batches = [], set()
    dims: dict[str, int] = {}
    for value in values:
        shape = _shape(value, given.get(str(value.name)), dynamic)
        for axis, (dim, size) in enumerate(shape):
            if isinstance(dim, str):
                dims[dim] = size or dims.get(dim, 0)
                if axis == 0:
                    batches.add(dim)
        specs.append(TensorSpec(str(value.name), _dtype(value), tuple(d for d, _ in shape)))
    return Inputs(tuple(specs), dims, frozenset(batches))


def _dtype(value: ir.Value) -> str:
    if value.dtype is None or type(value.type).__name__ != "TensorType":
        kind = type(value.type).__name__.removesuffix("Type").lower() if value.type is not None else "value of no type"
        raise PacklightError(f"input {value.name!r} is a {kind}; packlight takes tensors")
    return str(torch_dtype(int(value.dtype))).removeprefix("torch.")


def _shape(value: ir.Value, example: Any, dynamic: DynamicDims | None) -> list[tuple[Dim, int | None]]:
    """Of every axis, its size or name, and the size that the example has."""
    name = str(value.name)
    if value.shape is None and example is None:
        raise PacklightError(f"input {name!r} has no shape in the file; give example_inputs")
    declared: list[Any] = list(value.shape) if value.shape is not None else [None] * example.dim()
    if example is not None and len(declared) != example.dim():
        raise PacklightError(f"example input {name!r} has shape {list(example.shape)}, the file says {value.shape}")
    shape: list[tuple[Dim, int | None]] = []
    for axis, size in enumerate(declared):
        seen = int(example.shape[axis]) if example is not None else None
        chosen = (dynamic or {}).get(name, {}).get(axis)
        if chosen is not None:
            shape.append((chosen, seen or (size if isinstance(size, int) and size > 0 else None)))
        elif isinstance(size, int) and size >= 0:
            if seen is not None and seen != size:
                given = list(example.shape)
                raise PacklightError(f"example input {name!r} has shape {given}, the file says {value.shape}")
            shape.append((size, seen))
        elif dynamic is not None and seen is not None:
            shape.append((seen, seen))
        else:
            shape.append((_dim(size, name, axis), seen))
    return shape


def _dim(size: Any, name: str, axis: int) -> str:
    """The file's name for a dimension, as an identifier; one of our own where it has none."""
    symbol = getattr(size, "value", size)
    given = _NOT_A_LETTER.sub("_", str(symbol)) if isinstance(symbol, str) else ""
    if given and not given[0].isdigit():
        return given
    return "batch" if axis == 0 else f"{_NOT_A_LETTER.sub('_', name)}_{axis}"


def _by_name(names: Sequence[str], example: Any) -> dict[str, Tensor]:
    if example is None:
        return {}
    if isinstance(example, Tensor):
        example = (example,)
    named = dict(example) if isinstance(example, Mapping) else dict(zip(names, example, strict=False))
    unknown = set(named) - set(names)
    if unknown or (not isinstance(example, Mapping) and len(example) != len(names)):
        raise PacklightError(f"the file takes inputs {list(names)}; example_inputs are {list(named)}")
    return named

"""The example call that a network is captured with: its flat inputs, their names and their dynamic axes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from packlight.errors import PacklightError

DynamicDims = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Example:
    """names: one a flat input. leaves: the tensors. spec: how they nest in (args, kwargs).
    dynamic: input name → {axis: dimension name}."""

    names: tuple[str, ...]
    leaves: tuple[Tensor, ...]
    spec: Any
    dynamic: DynamicDims

    @property
    def sizes(self) -> dict[str, int]:
        """Dimension name → its size in this example."""
        found: dict[str, int] = {}
        for name, leaf in zip(self.names, self.leaves, strict=True):
            for axis, dim in self.dynamic.get(name, {}).items():
                if found.setdefault(dim, leaf.shape[axis]) != leaf.shape[axis]:
                    raise PacklightError(
                        f"dimension {dim!r} is {found[dim]} and {leaf.shape[axis]} in the example inputs"
                    )
        return found

    def call(self, module: nn.Module) -> Any:
        args, kwargs = pytree.tree_unflatten(self.leaves, self.spec)
        return module(*args, **kwargs)

    def cloned(self) -> Example:
        """The same with tensors of its own, for a network that writes into its inputs."""
        return replace(self, leaves=tuple(t.clone() for t in self.leaves))

    def resized(self, dim: str, size: int) -> Example:
        """The same with one dimension cut or repeated to `size`."""
        leaves = []
        for name, leaf in zip(self.names, self.leaves, strict=True):
            for axis, d in self.dynamic.get(name, {}).items():
                if d == dim:
                    leaf = leaf.index_select(axis, torch.arange(size, device=leaf.device) % leaf.shape[axis])
            leaves.append(leaf)
        return replace(self, leaves=tuple(leaves))

    def fixed(self, dims: set[str]) -> Example:
        """The same with these dimensions fixed at their sizes."""
        left = {n: {a: d for a, d in axes.items() if d not in dims} for n, axes in self.dynamic.items()}
        return replace(self, dynamic={n: axes for n, axes in left.items() if axes})


def read_example(module: nn.Module, inputs: Any, dynamic: DynamicDims | None) -> Example:
    """Check what the user gave and name it; dynamic=None makes axis 0 "batch" where all inputs agree on its size.

    A dynamic size of 1 becomes 2, because torch.export takes a size of one for a constant.
    """
    args, kwargs = _as_call(inputs)
    names = _names(module, args, kwargs)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, Tensor):
            raise PacklightError(
                f"example input {name!r} must be a tensor, got {type(leaf).__name__}; bind other arguments in a wrapper"
            )
    if dynamic is None:
        dynamic = _default_dynamic(names, leaves)
    unknown = set(dynamic) - set(names)
    if unknown:
        raise PacklightError(f"dynamic names inputs {sorted(unknown)}, the network takes {names}")
    for name, leaf in zip(names, leaves, strict=True):
        for axis, dim in dynamic.get(name, {}).items():
            if not 0 <= axis < leaf.dim() or not str(dim).isidentifier():
                raise PacklightError(
                    f"dynamic: input {name!r} of shape {list(leaf.shape)} has no axis {axis} to call {dim!r}; "
                    "give {input: {axis: name}}"
                )
    example = Example(tuple(names), tuple(leaves), spec, dynamic)
    for dim, size in example.sizes.items():
        example = example.resized(dim, 2) if size == 1 else example
    return example


def _as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return tuple(inputs), {}
    raise PacklightError(f"example inputs must be a tensor, a tuple or a dict of tensors, got {type(inputs).__name__}")


def _names(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """One name a flat tensor: the forward argument's, with the path inside it where it nests."""
    top = positional_names(module, len(args))
    names = []
    for name, value in [*zip(top, args, strict=True), *kwargs.items()]:
        for path, _ in pytree.tree_flatten_with_path(value)[0]:
            inner = "".join("_" + str(getattr(k, "key", getattr(k, "idx", k))) for k in path)
            names.append(name + inner)
    return names


def positional_names(module: nn.Module, count: int) -> list[str]:
    """The names of forward's first `count` positional arguments, "input_i" where it does not name them."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [named[i] if i < len(named) else f"input_{i}" for i in range(count)]


def _default_dynamic(names: Sequence[str], leaves: Sequence[Tensor]) -> DynamicDims:
    sizes = {t.shape[0] for t in leaves if t.dim() > 0}
    return {n: {0: "batch"} for n, t in zip(names, leaves, strict=True) if t.dim() > 0} if len(sizes) == 1 else {}

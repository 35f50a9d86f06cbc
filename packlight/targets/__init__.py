"""Runtimes that networks are exported to, each in a file of its own and run in a child process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

_BUILT_IN: Mapping[str, str] = {"onnxruntime": "packlight.targets.onnxruntime:OnnxRuntime"}
_ENTRY_POINTS = "packlight.targets"

__all__ = ["Session", "Target", "get", "names"]


def names() -> list[str]:
    """Every target known here: the built-in ones, then those that installed packages add."""
    return [*_BUILT_IN, *(n for n in _plugins() if n not in _BUILT_IN)]


def get(target: str | Target) -> Target:
    """A target by name, or the one given. Its runtime need not be installed yet."""
    if isinstance(target, Target):
        return target
    address = _BUILT_IN.get(target) or _plugins().get(target)
    if address is None:
        raise PacklightError(f"no target {target!r}; known are {', '.join(names())}")
    module, _, name = address.partition(":")
    made: Target = getattr(importlib.import_module(module), name)()
    return made


def _plugins() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {e.name: e.value for e in entry_points(group=_ENTRY_POINTS)}

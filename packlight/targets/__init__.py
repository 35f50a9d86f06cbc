"""Runtimes that networks are exported to, each in a file of its own and run in a child process.

Importing this is light: the child processes do it, too.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.targets.adapt import adapted
    from packlight.targets.artifact import Artifact, Runner
    from packlight.targets.host import Child
    from packlight.targets.write import export

_BUILT_IN: Mapping[str, str] = {
    "onnxruntime": "packlight.targets.onnxruntime:OnnxRuntime",
    "openvino": "packlight.targets.openvino:OpenVino",
    "executorch": "packlight.targets.executorch:ExecuTorch",
    "litert": "packlight.targets.litert:LiteRT",
    "ncnn": "packlight.targets.ncnn:Ncnn",
    "torch": "packlight.targets.pytorch:PyTorch",
    "aotinductor": "packlight.targets.aotinductor:AotInductor",
    "mnn": "packlight.targets.mnn:Mnn",
    "coreml": "packlight.targets.coreml:CoreML",
}
_ENTRY_POINTS = "packlight.targets"
_HOME = {
    "Artifact": "artifact",
    "adapted": "adapt",
    "Runner": "artifact",
    "Child": "host",
    "export": "write",
}

__all__ = [
    "Artifact",
    "Child",
    "Runner",
    "Session",
    "Target",
    "adapted",
    "export",
    "get",
    "installed",
    "names",
]


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
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise PacklightError(f"target {target!r} cannot be loaded from {address}: {error}") from error
    if not isinstance(made, Target):
        raise PacklightError(f"target {target!r}: {address} is no subclass of packlight.targets.Target")
    return made


def installed() -> list[Target]:
    """The targets whose runtimes are there and run on this system."""
    found = []
    for name in names():
        with contextlib.suppress(PacklightError):
            target = get(name)
            target.require()
            if not target.elsewhere:
                found.append(target)
    return found


def _plugins() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {e.name: e.value for e in entry_points(group=_ENTRY_POINTS)}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value

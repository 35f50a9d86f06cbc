"""packlight takes a trained network and makes it travel light.

Names are loaded when first used, so that importing the package is fast.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packlight.api.compressing import (
        build_in,
        compare_layers,
        fold,
        mend_layers,
        prunable,
        prune,
        quantize,
        renorm,
        sensitivity,
        share_weights,
        tune_placement,
    )
    from packlight.api.delivering import convert, deep_compression, export, pack, unpack
    from packlight.api.measuring import compare, compress, estimate, install_target, measure
    from packlight.api.opening import load
    from packlight.api.training import distill, finetune, transfer
    from packlight.errors import PacklightError
    from packlight.measure import Measurement
    from packlight.model import Model, statistics
    from packlight.passes.prune import Pruning
    from packlight.search.budget import Budget
    from packlight.search.pruning.gradual import Gradual
    from packlight.targets import Artifact, Runner
    from packlight.task import Metric, Task, Workload
    from packlight.train import Distillation, Engine, Fit, Schedule

__version__ = "0.1.0"

_HOMES = {
    "packlight.api.compressing": (
        "build_in",
        "compare_layers",
        "fold",
        "mend_layers",
        "prunable",
        "prune",
        "quantize",
        "renorm",
        "sensitivity",
        "share_weights",
        "tune_placement",
    ),
    "packlight.api.delivering": (
        "convert",
        "deep_compression",
        "export",
        "pack",
        "unpack",
    ),
    "packlight.api.measuring": (
        "compare",
        "compress",
        "estimate",
        "install_target",
        "measure",
    ),
    "packlight.api.opening": ("load",),
    "packlight.api.training": (
        "distill",
        "finetune",
        "transfer",
    ),
    "packlight.errors": ("PacklightError",),
    "packlight.measure": ("Measurement",),
    "packlight.model": ("Model", "statistics"),
    "packlight.passes.prune": ("Pruning",),
    "packlight.search.budget": ("Budget",),
    "packlight.search.pruning.gradual": ("Gradual",),
    "packlight.targets": ("Artifact", "Runner"),
    "packlight.task": ("Metric", "Task", "Workload"),
    "packlight.train": ("Distillation", "Engine", "Fit", "Schedule"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Artifact", "Budget", "Distillation", "Engine", "Fit", "Gradual", "Measurement", "Metric", "Model",
    "PacklightError", "Pruning", "Runner", "Schedule", "Task", "Workload", "build_in", "compare", "compare_layers",
    "compress", "convert", "deep_compression", "distill", "estimate", "export", "finetune", "fold",
    "install_target", "load", "measure", "mend_layers", "pack", "prunable", "prune", "quantize", "renorm",
    "sensitivity", "share_weights", "statistics", "transfer", "tune_placement", "unpack",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'packlight' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Root(ModuleType):
    """Python sets imported submodules on their package; `packlight.measure`, the room, must not hide the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root

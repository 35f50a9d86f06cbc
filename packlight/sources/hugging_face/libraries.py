"""The packages that define the networks of Hugging Face: transformers and timm, imported when first needed."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import Any

import torch

from packlight.errors import MissingRuntime

_INSTALL = "pip install 'packlight[{}]'"
_ABSENT_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
_MOST_OPERATORS = 32
_declared: list[Any] = []  # a declaration goes when its library does


def require_transformers() -> Any:
    """The `transformers` package, or MissingRuntime with the line that installs it."""
    _complete_torchvision()
    try:
        import transformers
    except ImportError as error:
        line = _INSTALL.format("transformers")
        raise MissingRuntime(f"networks of Hugging Face need the transformers package; run: {line}") from error
    return transformers


def require_timm() -> Any:
    """The `timm` package, or MissingRuntime with the line that installs it."""
    _complete_torchvision()
    try:
        import timm  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingRuntime(f"this network needs the timm package; run: {_INSTALL.format('timm')}") from error
    return timm


def _complete_torchvision() -> None:
    """Declare the operators that torchvision's import asks torch for where its own library cannot be loaded.

    That is so beside a torch of another build (its wheel is made for CUDA, torch may be for the CPU alone); both
    packages import torchvision, for its image transforms, and stop there. What is declared cannot be called.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    for _ in range(_MOST_OPERATORS):
        try:
            import torchvision  # type: ignore[import-not-found]  # noqa: F401 - whether it can be
        except (RuntimeError, ImportError) as error:
            absent = _ABSENT_OPERATOR.search(str(error))
            for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            if absent is None:
                return
            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{absent[1]}(Tensor a, Tensor b, float c) -> Tensor")
            _declared.append(library)
        else:
            return

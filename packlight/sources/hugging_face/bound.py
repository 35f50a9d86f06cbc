"""A config of a stranger's cannot ask for more layers or numbers than the weights beside it could fill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from packlight.errors import PacklightError

_WEIGHTS = "*.safetensors", "*.bin"
_TIMES = 4  # weights may be made twice (tied ones) and take as little as half a byte a number
_SPARE_NUMBERS = 1 << 20
_SPARE_MODULES = 10_000
_BYTES_A_MODULE = 16  # a module that computes has at least a few weights; those without any are fewer than those with


@contextmanager
def bounded(folder: Path) -> Iterator[None]:
    """Modules are made inside the block; PacklightError as soon as they outgrow the weight files in the folder."""
    held = sum(p.stat().st_size for pattern in _WEIGHTS for p in folder.glob(pattern))
    beside = f"its {held:,} bytes of weights hold"
    numbers, modules = _TIMES * held + _SPARE_NUMBERS, held // _BYTES_A_MODULE + _SPARE_MODULES

    def count_numbers(_module: nn.Module, _name: str, parameter: Any) -> None:
        nonlocal numbers
        numbers -= 0 if parameter is None else parameter.numel()
        if numbers < 0:
            raise PacklightError(f"{folder}: its config asks for more parameters than {beside}")

    def count_modules(_module: nn.Module, _name: str, _submodule: Any) -> None:
        nonlocal modules
        modules -= 1
        if modules < 0:
            raise PacklightError(f"{folder}: its config asks for more layers than {beside}")

    hooks = (
        torch_module.register_module_parameter_registration_hook(count_numbers),
        torch_module.register_module_module_registration_hook(count_modules),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

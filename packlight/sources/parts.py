"""Which parts of a network that cannot be exported whole can be exported alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from packlight.errors import PacklightError
from packlight.sources.example import Example

_LIMIT_S = 20.0
_SHOWN = 6
Call = tuple[tuple[Any, ...], dict[str, Any]]


def with_parts(
    module: nn.Module, example: Example, error: PacklightError, export: Callable[[nn.Module, Any, Any], object]
) -> PacklightError:
    """The error and, of a network that has parts, the largest of them that export with what the network gives them.

    export: of a part, its positional and its keyword arguments; PacklightError where it cannot be. At most 20 s.
    """
    calls = _calls(module, example)
    good: list[str] = []
    bad: list[str] = []
    _try(module, "", calls, export, time.monotonic() + _LIMIT_S, good, bad)
    if not good:
        return error
    whole = sum(p.numel() for p in module.parameters())
    inside = sum(p.numel() for p in {p for n in good for p in module.get_submodule(n).parameters()})
    share = f", {inside / whole:.0%} of the parameters" if whole else ""
    return PacklightError(f"{error}; exported alone can be {_few(good)}{share}"
                          f"{f'; not: {_few(bad)}' if bad else ''}: load(module.{good[0]}, its inputs)")  # fmt: skip


def _calls(module: nn.Module, example: Example) -> dict[str, Call]:
    """The first call of every part in an ordinary run: copies of its arguments."""
    found: dict[str, Call] = {}
    hooks = []

    def listen(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in found:
                copied = pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, (args, kwargs))
                found[name] = copied

        return hook

    try:
        for name, part in module.named_modules():
            if name:
                hooks.append(part.register_forward_pre_hook(listen(name), with_kwargs=True))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            example.cloned().call(module)
    except Exception:  # noqa: BLE001  # the user's own forward: what was called until then is what can be tried
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _try(
    module: nn.Module, prefix: str, calls: dict[str, Call], export: Callable[..., object], until: float,
    good: list[str], bad: list[str],
) -> None:  # fmt: skip
    """Parts of a module that export, the outermost of each, and those that do not and have no part that does."""
    for child, part in module.named_children():
        name = f"{prefix}{child}"
        if time.monotonic() > until:
            return
        if name not in calls:
            _try(part, f"{name}.", calls, export, until, good, bad)
            continue
        args, kwargs = calls[name]
        if not all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
            continue
        try:
            export(part, args, kwargs)
            good.append(name)
        except PacklightError:
            before = len(good)
            _try(part, f"{name}.", calls, export, until, good, bad)
            if len(good) == before:
                bad.append(name)


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

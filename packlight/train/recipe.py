"""A training step as a YAML file: what `fit` takes, by the names of its option classes.

fit: {epochs: 10, learning_rate: 0.05, schedule: {kind: linear}, engine: {precision: bf16, ema: 0.999}}
distillation: {temperature: 4, weight: 0.7, kind: kd}
hooks:
  - group_lasso: {strength: 1.0e-4}
  - sparsify: {sparsity: 0.8, scope: global}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.train.hooks import Hook
from packlight.train.losses import Distillation
from packlight.train.options import Fit, check_types, from_mapping
from packlight.train.regularise import L1, L2, Entropy, GroupLasso, ResetDropout
from packlight.train.sparsify import Sparsify, Sparsity

_MOST = 1 << 20  # bytes of a recipe
_HOOKS: dict[str, Callable[..., Hook]] = {
    "l1": L1, "l2": L2, "group_lasso": GroupLasso, "entropy": Entropy, "dropout": ResetDropout,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """fit, distillation, hooks: as `fit` takes them; hooks are made anew by each reading."""

    fit: Fit = Fit()
    distillation: Distillation = Distillation()
    hooks: tuple[Hook, ...] = ()


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file. Raises PacklightError that names what is not understood."""
    return recipe(read_yaml(path) or {}, str(path))


def read_yaml(path: str | Path) -> Any:
    """The plain values in a YAML file of a recipe's size."""
    import yaml

    try:
        with open(path, "rb") as file:
            content = file.read(_MOST + 1)
    except OSError as error:
        raise PacklightError(f"cannot read recipe {path}: {error.strerror}") from error
    if len(content) > _MOST or content.count(b"&") > 64:  # aliases can unfold without end
        raise PacklightError(f"{path} is no recipe: too large")
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise PacklightError(f"{path} is no YAML: {' '.join(str(error).split())[:200]}") from error


def recipe(given: Any, where: str = "recipe") -> Recipe:
    """The recipe that plain values describe."""
    known = ("fit", "distillation", "hooks")
    if not isinstance(given, Mapping) or set(given) - set(known):
        odd = sorted(map(str, set(given) - set(known))) if isinstance(given, Mapping) else type(given).__name__
        raise PacklightError(f"{where}: a recipe holds {', '.join(known)}, got {odd}")
    hooks = given.get("hooks") or []
    if not isinstance(hooks, list):
        raise PacklightError(f"{where}: hooks is a list such as [l1: {{strength: 1.0e-5}}], got {type(hooks).__name__}")
    return Recipe(
        from_mapping(Fit, _mapping(given, "fit", where), f"{where}: fit"),
        from_mapping(Distillation, _mapping(given, "distillation", where), f"{where}: distillation"),
        tuple(_hook(entry, where) for entry in hooks),
    )


def _mapping(given: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = given.get(name) or {}
    if not isinstance(found, Mapping):
        raise PacklightError(f"{where}: {name} holds named options, got {found!r}")
    return found


def _hook(entry: Any, where: str) -> Hook:
    names = ", ".join([*_HOOKS, "sparsify"])
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise PacklightError(f"{where}: a hook is a name with its options, one of {names}; got {entry!r}")
    ((name, options),) = entry.items()
    options = options or {}
    if not isinstance(options, Mapping) or name not in (*_HOOKS, "sparsify"):
        raise PacklightError(f"{where}: no hook {entry!r}; there are {names}")
    if (exclude := options.get("exclude")) is not None:
        options = {**options, "exclude": name_patterns(exclude, f"{where}: {name}")}
    if name == "sparsify":
        return Sparsify(from_mapping(Sparsity, options, f"{where}: sparsify"))
    takes = inspect.signature(_HOOKS[name]).parameters
    if odd := sorted(set(options) - set(takes), key=str):
        raise PacklightError(f"{where}: {name} has no option {', '.join(map(repr, odd))}; there are {', '.join(takes)}")
    check_types(_HOOKS[name], options, f"{where}: {name}")
    try:
        return _HOOKS[name](**options)
    except TypeError as error:
        raise PacklightError(f"{where}: {name}: {error}; it takes {', '.join(takes)}") from error


def name_patterns(given: Any, where: str) -> tuple[str, ...]:
    """One pattern, or a list of them."""
    found = (given,) if isinstance(given, str) else given
    if not isinstance(found, list | tuple) or not all(isinstance(p, str) for p in found):
        raise PacklightError(f"{where}: exclude is a list of name patterns such as [head*], got {given!r}")
    return tuple(found)

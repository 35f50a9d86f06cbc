"""Rules of other people's: given to `load`, or installed as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points

from packlight.errors import PacklightError
from packlight.sources.onnx.rules import TABLE
from packlight.sources.onnx.translate import Rules

GROUP = "packlight.onnx_operators"


def table(given: Rules | None = None) -> Rules:
    """packlight's rules, those of installed packages (entry points of `packlight.onnx_operators`, each a mapping of
    (domain, operator) to a function), and those given, which come first."""
    made = dict(TABLE)
    for point in entry_points(group=GROUP):
        found = point.load()
        _check(found, f"entry point {point.name!r}")
        made |= found
    _check(given or {}, "operators")
    return made | dict(given or {})


def _check(rules: object, what: str) -> None:
    good = isinstance(rules, dict) and all(
        isinstance(k, tuple) and len(k) == 2 and all(isinstance(p, str) for p in k) and callable(v)
        for k, v in rules.items()
    )  # fmt: skip
    if not good:
        raise PacklightError(f"{what}: give a dict of (domain, operator) → a function of (op, *inputs)")

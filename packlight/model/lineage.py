"""The steps that made a Model, as values that can be written to a file and compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """One pass that was applied: its name, its version number and its options (JSON values)."""

    name: str
    version: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={v}" for k, v in self.options.items() if v not in (None, (), [], {}))
        return f"{self.name}({shown})" if shown else self.name


def options_of(value: Any) -> dict[str, Any]:
    """A frozen options dataclass as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value), default=str))
    return plain


def digest(value: Any) -> str:
    """A stable hex digest of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

"""Names, dtypes and shapes of a Model's inputs and outputs, and how outputs nest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packlight.errors import PacklightError

Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    name: what the user calls it. dtype: torch's name without "torch.", e.g. "float32".
    shape: an int for a fixed size, a str for a named dynamic dimension such as "batch". An output may also
    have a size that follows from those, such as "2*batch"; then the str is that expression.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def sizes(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every named dimension replaced by its size in `dims`."""
        missing = [d for d in self.shape if isinstance(d, str) and d not in dims]
        if missing:
            raise PacklightError(f"input {self.name!r}: no size given for dimension {missing[0]!r}")
        return tuple(dims[d] if isinstance(d, str) else d for d in self.shape)

    def bind(self, shape: Sequence[int], dims: dict[str, int], dtype: str | None = None) -> None:
        """Check an actual shape (and dtype, where given) and record the dynamic sizes it implies in `dims`."""
        if dtype is not None and dtype != self.dtype:
            raise PacklightError(f"input {self.name!r}: got {dtype}, the model takes {self}; convert it first")
        known = ", ".join(f"{d} = {dims[d]}" for d in self.shape if d in dims)
        fits = len(shape) == len(self.shape)
        for want, got in zip(self.shape, shape, strict=False):
            if isinstance(want, str):
                fits = fits and dims.setdefault(want, got) == got
            else:
                fits = fits and want == got
        if not fits:
            known = known and f" with {known}"
            raise PacklightError(f"input {self.name!r}: got shape {list(shape)}, the model takes {self}{known}")

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


# A nested output is described by plain JSON values: an int (index of a flat output), None,
# {"list": [...]}, {"tuple": [...]} or {"dict": {...}}.
Structure = Any


def restructure(structure: Structure, flat: Sequence[Any]) -> Any:
    """Nest flat outputs the way the original network returned them."""
    match structure:
        case None:
            return None
        case int():
            return flat[structure]
        case {"list": items}:
            return [restructure(s, flat) for s in items]
        case {"tuple": items}:
            return tuple(restructure(s, flat) for s in items)
        case {"dict": items}:
            return {k: restructure(s, flat) for k, s in items.items()}
        case _:
            raise PacklightError(f"output structure {structure!r} is not an int, None, list, tuple or dict")


def check_structure(structure: Structure, outputs: int) -> None:
    """Raise PacklightError unless `structure` nests exactly the outputs 0 to outputs − 1, in order."""
    found: list[int] = []

    def walk(part: Structure) -> None:
        match part:
            case None:
                return
            case bool():
                raise PacklightError("an output structure holds a boolean")
            case int():
                found.append(part)
            case {"list": list(items)} | {"tuple": list(items)} if len(part) == 1:
                for item in items:
                    walk(item)
            case {"dict": dict(items)} if len(part) == 1:
                for item in items.values():
                    walk(item)
            case _:
                raise PacklightError(f"output structure {str(part)[:80]!r} is not an int, None, list, tuple or dict")

    walk(structure)
    if found != list(range(outputs)):
        raise PacklightError(f"the output structure names outputs {found[:20]}, the graph has {outputs}")


def leaf_names(structure: Structure, prefix: str = "") -> dict[int, str]:
    """Output index → name: dict keys joined by dots, positions where there are no keys, else "output"."""
    match structure:
        case int():
            return {structure: prefix or "output"}
        case {"list": items} | {"tuple": items}:
            parts = {str(i) if prefix else f"output_{i}": s for i, s in enumerate(items)}
        case {"dict": items}:
            parts = items
        case _:
            return {}
    names: dict[int, str] = {}
    for key, part in parts.items():
        names |= leaf_names(part, f"{prefix}.{key}" if prefix else str(key))
    return names

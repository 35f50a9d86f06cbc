"""How wide each layer of a network is, before and after a cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packlight.model import LayerStatistics, Statistics


@dataclass(frozen=True)
class Width:
    """Channels (features, of a linear layer) that a layer gives out; after: 0 where the layer is gone."""

    layer: str
    operator: str
    before: int
    after: int


def widths(before: Statistics, after: Statistics) -> list[Width]:
    """Of every layer with weights of its own that are multiplied or looked up, in order."""
    mine, theirs = _outputs(before.layers), _outputs(after.layers)
    found = []
    for (layer, operator), shape in mine.items():
        other = theirs.get((layer, operator))
        axis = _channels(operator, shape, other or shape)
        found.append(Width(layer, operator, shape[axis], other[axis] if other else 0))
    return found


def _outputs(rows: Sequence[LayerStatistics]) -> dict[tuple[str, str], tuple[int, ...]]:
    """The shape that each gives; a recurrent layer gives several, the first of which is taken out next."""
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        shape = row.output or (after.output if after is not None and after.operator == "getitem" else ())
        if shape and row.params and (row.macs or row.operator == "embedding"):
            found.setdefault((row.name, row.operator), shape)
    return found


def _channels(operator: str, mine: tuple[int, ...], other: tuple[int, ...]) -> int:
    """The axis of channels: the one that a cut changed, else where the operator has them."""
    changed = [a for a, (m, o) in enumerate(zip(mine, other, strict=True)) if m != o]
    return changed[0] if changed else 1 if operator.startswith("conv") else len(mine) - 1

"""Rules by operator, and what every rule works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import packet
from packlight.model.shapes import shape_of
from packlight.passes.prune.labels import Axis, Labels, Layout

Rule = Callable[["Walk", Node], Any]
RULES: dict[str, Rule] = {}


def rule(*packets: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators: from the layouts of a node's inputs to that of its value, a list for several."""

    def register(function: Rule) -> Rule:
        for name in packets:
            assert name not in RULES, name
            RULES[name] = function
        return function

    return register


@dataclass(frozen=True)
class Operand:
    """A tensor in a product of tensors. letters: one an axis; axes with the same letter are the same."""

    layout: Layout
    sizes: tuple[int, ...]
    letters: tuple[str, ...]


class Walk:
    """A walk over a graph in order: labels, and the layout of every value so far."""

    def __init__(self, model: Model):
        self.model, self.labels = model, Labels()
        self.layouts: dict[Node, Any] = {}

    def layout(self, value: Any) -> Layout:
        found: Layout = self.layouts.get(value, ()) if isinstance(value, Node) else ()
        return found

    def shape(self, value: Any) -> tuple[int, ...]:
        return shape_of(value)

    def why(self, node: Node) -> str:
        return f"{packet(node)} at {self.model.layer(node)} needs every position"

    def freeze(self, axes: Iterable[Axis | None], why: str) -> None:
        for axis in axes:
            self.labels.freeze_axis(axis, why)

    def renumbered(self, axis: Axis | None, to: dict[int, int]) -> Axis | None:
        """An axis for a tensor whose axes have other numbers; where one that it depends on is gone, the same on all."""
        if axis is None or not axis.on:
            return axis
        if all(p in to for p in axis.on):
            return Axis(axis.labels, tuple(to[p] for p in axis.on), axis.rows)
        return Axis(self.labels.plain(axis))

    def without(self, layout: Layout, gone: Iterable[int], keepdim: bool = False) -> Layout:
        """The layout when axes are reduced."""
        lost = set(gone)
        left = [a for a in range(len(layout)) if a not in lost]
        to = {a: a for a in left} if keepdim else {a: i for i, a in enumerate(left)}
        kept = range(len(layout)) if keepdim else left
        return tuple(None if a in lost else self.renumbered(layout[a], to) for a in kept)

    def combine(self, node: Node, operands: Sequence[Operand], out: Sequence[str], fixed: Iterable[str] = ()) -> Layout:
        """The layout of a product of tensors, or of anything that works position by position along each letter.

        Axes of one letter are the same, but for those of size 1, which are spread. out: the letters of the value.
        fixed: letters along which nothing may be cut.
        """
        letters = list(dict.fromkeys(x for o in operands for x in o.letters))
        number = {x: i for i, x in enumerate(letters)}
        found: dict[str, Axis | None] = {}
        for letter in letters:
            axes, opaque, sizes = [], False, 1
            for o in operands:
                at = {a: number[x] for a, x in enumerate(o.letters)}
                for a, x in enumerate(o.letters):
                    if x == letter and o.sizes[a] != 1:
                        sizes = o.sizes[a]
                        axis = self.renumbered(o.layout[a], at)
                        opaque |= axis is None
                        axes += [axis] if axis is not None else []
            one = axes[0] if axes else None
            for other in axes[1:]:
                assert one is not None
                one = self.labels.align(one, other)
            if (opaque or letter in fixed) and sizes != 1:
                self.freeze(axes, self.why(node))
            found[letter] = one
        to = {number[x]: i for i, x in enumerate(out) if x in number}
        return tuple(self.renumbered(found.get(x), to) for x in out)

    def elementwise(self, node: Node, values: Sequence[Any]) -> Layout:
        """Tensors spread to one shape and combined position by position."""
        rank = max((len(self.shape(v)) for v in values), default=0)
        operands = [self.spread(v, rank) for v in values if isinstance(v, Node)]
        return self.combine(node, operands, [str(i) for i in range(rank)])

    def spread(self, value: Node, rank: int) -> Operand:
        """An operand whose letters are axis numbers of a value with `rank` axes, counted from the right."""
        sizes = self.shape(value)
        return Operand(self.layout(value), sizes, tuple(str(rank - len(sizes) + a) for a in range(len(sizes))))

    def operand(self, value: Node, letters: Iterable[str]) -> Operand:
        return Operand(self.layout(value), self.shape(value), tuple(letters))


def axis_of(dim: Any, rank: int) -> int:
    """An axis number from 0; negative ones count from the end."""
    return int(dim) % rank if rank else 0

"""Operators that work position by position, and norms, which work along an axis but keep it."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from packlight.model.operators import KIND, argument
from packlight.passes.prune.labels import Layout, reshape, taken
from packlight.passes.prune.rules.parts import at_position
from packlight.passes.prune.rules.table import Walk, axis_of, rule

_SPECIAL = {"glu", "prelu", "rsub", "masked_fill", "lift_fresh", "bernoulli"}
_UNARY = sorted({n for n, k in KIND.items() if k == "unary"} - _SPECIAL)
_BINARY = sorted({n for n, k in KIND.items() if k == "binary"} - _SPECIAL)


@rule(*_UNARY, "softmax", "_softmax", "log_softmax", "_log_softmax")
def one(walk: Walk, node: Node) -> Layout:
    return walk.layout(node.args[0])


@rule(*_BINARY, "masked_fill", "rsub")
def several(walk: Walk, node: Node) -> Layout:
    return walk.elementwise(node, [a for a in (*node.args, *node.kwargs.values()) if walk.shape(a)])


@rule("prelu")
def prelu(walk: Walk, node: Node) -> Layout:
    return _channels(walk, node, [argument(node, "weight")])


@rule("glu")
def glu(walk: Walk, node: Node) -> Layout:
    """Halves of an axis, multiplied."""
    x: Any = node.args[0]
    layout, sizes = walk.layout(x), walk.shape(x)
    at = axis_of(argument(node, "dim"), len(sizes))
    halved = reshape(walk.labels, layout, sizes, [*sizes[:at], 2, sizes[at] // 2, *sizes[at + 1 :]])
    walk.freeze([halved[at]], walk.why(node))
    for axis in halved:
        if axis is not None and at in axis.on:
            where = axis.on.index(at)
            walk.labels.tie(taken(axis.labels, 0, where), taken(axis.labels, 1, where))
    return at_position(walk, halved, at, 0)


@rule("batch_norm", "instance_norm")
def channel_norm(walk: Walk, node: Node) -> Layout:
    return _channels(walk, node, list(node.args[1:5]))


def _channels(walk: Walk, node: Node, vectors: list[Any]) -> Layout:
    """A tensor [n, channels, …] and vectors [channels]."""
    x: Any = node.args[0]
    letters = [str(i) for i in range(len(walk.shape(x)))]
    along = [walk.operand(v, "1") for v in vectors if isinstance(v, Node) and walk.shape(v) != (1,)]
    return walk.combine(node, [walk.operand(x, letters), *along], letters)


@rule("layer_norm", "rms_norm")
def last_axes_norm(walk: Walk, node: Node) -> Layout:
    return walk.elementwise(node, [a for a in (node.args[0], *node.args[2:4]) if isinstance(a, Node)])


@rule("group_norm")
def group_norm(walk: Walk, node: Node) -> Layout:
    layout = _channels(walk, node, [argument(node, "weight"), argument(node, "bias")])
    sizes, groups = walk.shape(node), int(argument(node, "num_groups"))
    reshape(walk.labels, layout, sizes, [sizes[0], groups, sizes[1] // groups, *sizes[2:]])
    return layout

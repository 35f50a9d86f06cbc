"""Operators that lose axes."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from packlight.model.operators import argument, packet
from packlight.passes.prune.labels import Layout
from packlight.passes.prune.rules.table import Walk, axis_of, rule

_AS_LONG = ("topk", "sort", "argsort", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp")


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "logsumexp")
def reduced(walk: Walk, node: Node) -> Any:
    """Over what lives, where channels are reduced."""
    layout = walk.layout(node.args[0])
    value = node.meta["val"]
    shape = value[0].shape if isinstance(value, tuple | list) else value.shape
    made = walk.without(layout, dims_of(node, len(layout)), keepdim=len(shape) == len(layout))
    made = made if len(made) == len(shape) else (None,) * len(shape)
    return [made for _ in value] if isinstance(value, tuple | list) else made


def dims_of(node: Node, rank: int) -> list[int]:
    """The axes that an operator reduces, from 0; all where it names none."""
    try:
        dims = argument(node, "dim")
    except KeyError:
        dims = None
    if dims is None or dims == []:
        return list(range(rank))
    return [axis_of(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]


@rule(
    "max",
    "min",
    "argmax",
    "argmin",
    "topk",
    "sort",
    "argsort",
    "cumsum",
    "cumprod",
    "cummax",
    "cummin",
    "logcumsumexp",
    "prod",
    "median",
    "any",
    "all",
    "count_nonzero",
)
def ordered(walk: Walk, node: Node) -> Any:
    """What depends on where positions are is not cut along."""
    if len(node.args) > 1 and walk.shape(node.args[1]):
        return walk.elementwise(node, node.args[:2])  # max of two tensors
    if packet(node) in ("max", "min") and all(u.args[1:] == (0,) for u in node.users):
        return reduced(walk, node)  # the largest of what lives; nobody asks where it is
    layout = walk.layout(node.args[0])
    dims = dims_of(node, len(layout))
    value = node.meta["val"]
    first = value[0] if isinstance(value, tuple | list) else value
    whole = packet(node) in _AS_LONG or len(first.shape) == len(layout)
    walk.freeze([layout[a] for a in dims], walk.why(node))
    made: Layout = walk.without(layout, dims, keepdim=whole)
    made = made if len(made) == len(first.shape) else (None,) * len(first.shape)
    return [made for _ in value] if isinstance(value, tuple | list) else made


@rule("cosine_similarity", "pairwise_distance")
def compared(walk: Walk, node: Node) -> Layout:
    """Two values along an axis, over what lives of it; that of a distance is the last."""
    layout = walk.elementwise(node, node.args[:2])
    last = packet(node) == "pairwise_distance"
    at = len(layout) - 1 if last else axis_of(argument(node, "dim"), len(layout))
    return walk.without(layout, [at], keepdim=last and bool(argument(node, "keepdim")))


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(walk: Walk, node: Node) -> Any:
    """v [outputs, …] of length one along all axes but `dim`, times g [outputs, 1, …]."""
    layout = walk.elementwise(node, node.args[:2])
    return [layout, (None,) * len(layout)] if isinstance(node.meta["val"], tuple | list) else layout

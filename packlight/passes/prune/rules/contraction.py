"""Operators that multiply and add along an axis: linear layers, convolutions, matrix products, attention."""

from __future__ import annotations

from typing import Any, cast

from torch.fx import Node

from packlight.model.operators import argument
from packlight.passes.prune.labels import Layout, reshape
from packlight.passes.prune.rules.table import Operand, Walk, rule


@rule("linear")
def linear(walk: Walk, node: Node) -> Layout:
    x: Any = node.args[0]
    lead = [str(i) for i in range(len(walk.shape(x)) - 1)]
    operands = [walk.operand(x, [*lead, "in"]), walk.operand(argument(node, "weight"), ["out", "in"])]
    if (bias := argument(node, "bias")) is not None:
        operands.append(walk.operand(bias, ["out"]))
    return walk.combine(node, operands, [*lead, "out"])


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(walk: Walk, node: Node) -> Layout:
    """As a tensor [n, groups, in, …] times [groups, out, in, …]; a transposed one's weight is [groups, in, out, …]."""
    x, weight, bias = node.args[0], argument(node, "weight"), argument(node, "bias")
    groups, transposed = int(argument(node, "groups")), "transpose" in str(node.target)
    inner = ["in", "out"] if transposed else ["out", "in"]
    space = [f"x{i}" for i in range(len(walk.shape(weight)) - 2)]
    taps = [f"k{i}" for i in range(len(space))]
    given = _grouped(walk, x, 1, groups, ["n", "group", "in", *space])
    kernel = _grouped(walk, weight, 0, groups, ["group", *inner, *taps])
    operands = [given, kernel]
    if bias is not None:
        operands.append(_grouped(walk, bias, 0, groups, ["group", "out"]))
    layout = walk.combine(node, operands, ["n", "group", "out", *space], fixed=[*space, *taps])
    sizes = walk.shape(node)
    apart = [sizes[0], groups, sizes[1] // groups, *sizes[2:]]
    return reshape(walk.labels, (*layout[:3], *[None] * len(space)), apart, sizes)


def _grouped(walk: Walk, value: Any, at: int, groups: int, letters: list[str]) -> Operand:
    """A tensor one axis of which is taken apart into groups and the rest."""
    sizes = list(walk.shape(value))
    apart = [*sizes[:at], groups, sizes[at] // groups, *sizes[at + 1 :]]
    return Operand(reshape(walk.labels, walk.layout(value), sizes, apart), tuple(apart), tuple(letters))


@rule("matmul", "bmm", "mm", "mv", "dot")
def matmul(walk: Walk, node: Node) -> Layout:
    return _product(walk, node, *node.args[:2])


@rule("outer", "ger")
def outer(walk: Walk, node: Node) -> Layout:
    a, b = cast("tuple[Node, Node]", node.args)
    return walk.combine(node, [walk.operand(a, ["row"]), walk.operand(b, ["column"])], ["row", "column"])


@rule("cdist")
def distances(walk: Walk, node: Node) -> Layout:
    """[…, m, in] and […, n, in] to […, m, n]."""
    a, b = cast("tuple[Node, Node]", node.args[:2])
    lead = [str(i) for i in range(len(walk.shape(node)) - 2)]
    left, right = ([*lead[len(lead) + 2 - len(walk.shape(x)) :], own, "in"] for x, own in ((a, "row"), (b, "column")))
    return walk.combine(node, [walk.operand(a, left), walk.operand(b, right)], [*lead, "row", "column"])


@rule("bilinear")
def bilinear(walk: Walk, node: Node) -> Layout:
    first, second, weight = cast("tuple[Node, Node, Node]", node.args[:3])
    lead = [str(i) for i in range(len(walk.shape(first)) - 1)]
    operands = [walk.operand(first, [*lead, "a"]), walk.operand(second, [*lead, "b"])]
    operands.append(walk.operand(weight, ["out", "a", "b"]))
    if (bias := argument(node, "bias")) is not None:
        operands.append(walk.operand(bias, ["out"]))
    return walk.combine(node, operands, [*lead, "out"])


@rule("addmm", "baddbmm", "addmv")
def added(walk: Walk, node: Node) -> Layout:
    product = _product(walk, node, *node.args[1:3])
    letters = tuple(str(i) for i in range(len(product)))
    extra: Any = node.args[0]
    whole = Operand(product, walk.shape(node), letters)
    return walk.combine(node, [whole, walk.spread(extra, len(product))], letters)


def _product(walk: Walk, node: Node, a: Any, b: Any) -> Layout:
    m, n = len(walk.shape(a)), len(walk.shape(b))
    batch = max(m, n) - 2
    names = [str(i) for i in range(max(batch, 0))]
    left = [*names[len(names) - max(m - 2, 0) :], "row", "in"] if m > 1 else ["in"]
    right = [*names[len(names) - max(n - 2, 0) :], "in", "column"] if n > 1 else ["in"]
    out = [*names, *(["row"] if m > 1 else []), *(["column"] if n > 1 else [])]
    return walk.combine(node, [walk.operand(a, left), walk.operand(b, right)], out)


@rule("scaled_dot_product_attention")
def attention(walk: Walk, node: Node) -> Layout:
    """Query […, heads, l, e], key […, heads, s, e], value […, heads, s, v]; fewer key heads serve several each."""
    given: Any = node.args[:3]
    query, key, value = (
        walk.operand(x, _letters(walk, x, own)) for x, own in zip(given, ("le", "se", "sv"), strict=True)
    )
    heads = len(query.letters) - 3
    if argument(node, "enable_gqa") and query.sizes[heads] != key.sizes[heads]:
        shared, each = key.sizes[heads], query.sizes[heads] // key.sizes[heads]
        apart = [*query.sizes[:heads], shared, each, *query.sizes[heads + 1 :]]
        layout = reshape(walk.labels, query.layout, query.sizes, apart)
        walk.freeze([layout[heads + 1]], walk.why(node))
        query = Operand(layout, tuple(apart), (*query.letters[: heads + 1], "each", *query.letters[heads + 1 :]))
    batch = [*query.letters[:-2]]
    operands = [query, key, value]
    mask = argument(node, "attn_mask")
    if mask is not None and "each" not in batch:
        rank = len(walk.shape(mask))
        operands.append(walk.operand(mask, [*query.letters[:-1], "s"][len(query.letters) - rank :]))
    layout = walk.combine(node, operands, [*batch, "l", "v"])
    if "each" in batch:
        sizes = [*query.sizes[:-1], value.sizes[-1]]
        layout = reshape(walk.labels, layout, sizes, walk.shape(node))
    return layout


def _letters(walk: Walk, x: Any, own: str) -> list[str]:
    return [*(str(i) for i in range(len(walk.shape(x)) - 2)), *own]


@rule("einsum")
def einsum(walk: Walk, node: Node) -> Layout:
    equation, tensors = str(node.args[0]).replace(" ", ""), cast("list[Node]", node.args[1])
    given, _, out = equation.partition("->")
    terms = given.split(",")
    if "->" not in equation:
        every = "".join(terms).replace("...", "")
        out = ("..." if "..." in given else "") + "".join(sorted(x for x in set(every) if every.count(x) == 1))
    hidden = 0
    operands = []
    for letters, tensor in zip(terms, tensors, strict=True):
        rank = len(walk.shape(tensor))
        dots = rank - len(letters.replace("...", ""))
        hidden = max(hidden, dots if "..." in letters else 0)
        operands.append(walk.operand(tensor, _spelled(letters, dots)))
    return walk.combine(node, operands, _spelled(out, hidden))


def _spelled(letters: str, dots: int) -> list[str]:
    """Letters one an axis; the axes that "..." stands for count from the right, as "-1", "-2", …"""
    before, found, after = letters.partition("...")
    return [*before, *(str(i - dots) for i in range(dots) if found), *after]

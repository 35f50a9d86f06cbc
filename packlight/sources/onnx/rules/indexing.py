"""Operators that take and put elements by index. Indices below zero count from the end."""

from __future__ import annotations

import math
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.op import NeedsConstant, Op, Rule, axis_of
from packlight.sources.onnx.values import Constant, Operand, Size, Value

aten = torch.ops.aten
_CPU = torch.device("cpu")


def gather(op: Op, x: Operand, indices: Operand) -> Any:
    """Rows of a constant matrix are an embedding; one known index is a select."""
    axis = axis_of(op.attribute("axis", 0), x.rank)
    if isinstance(indices, Constant) and indices.rank == 0:
        return op.call(aten.select.int, x, axis, int(indices.tensor))
    indices = from_the_front(op, indices, op.shape(x)[axis])
    if isinstance(x, Constant) and isinstance(indices, Value) and axis == 0 and x.rank == 2:
        return op.call(aten.embedding.default, op.parameter(x), indices)
    if indices.rank == 1:
        return op.call(aten.index_select.default, x, axis, indices)
    flat = op.call(aten.index_select.default, x, axis, op.call(aten.reshape.default, indices, [-1]))
    shape = op.shape(x)
    return op.call(aten.reshape.default, flat, [*shape[:axis], *op.shape(indices), *shape[axis + 1 :]])


def from_the_front(op: Op, indices: Operand, size: Any) -> Any:
    """Indices below zero, which torch's operators refuse, plus the size; known ones are checked."""
    if isinstance(indices, Constant):
        values = indices.tensor.long()
        if isinstance(size, Size):
            if not values.numel() or int(values.min()) >= 0:
                return Constant(values)
        else:
            if values.numel() and not -size <= int(values.min()) <= int(values.max()) < size:
                raise PacklightError(f"an index from {int(values.min())} to {int(values.max())} of an axis of {size}")
            return Constant(torch.where(values < 0, values + size, values))
    indices = op.cast(indices, torch.int64)
    if _looks_up(op):
        return indices
    below = op.call(aten.lt.Scalar, indices, 0)
    return op.call(aten.where.self, below, op.call(aten.add.Tensor, indices, size), indices)


def _looks_up(op: Op) -> bool:
    """Whether the indices are an input of the network itself: token numbers, which are not negative."""
    value = op.node.inputs[1] if len(op.node.inputs) > 1 else None
    while value is not None and (maker := value.producer()) is not None and maker.op_type in ("Cast", "Identity"):
        value = maker.inputs[0]
    return value is not None and value.is_graph_input() and op.kind == "Gather"


def gather_elements(op: Op, x: Operand, indices: Operand) -> Any:
    axis = axis_of(op.attribute("axis", 0), x.rank)
    return op.call(aten.gather.default, x, axis, from_the_front(op, indices, op.shape(x)[axis]))


def gather_nd(op: Op, x: Operand, indices: Operand) -> Any:
    """The last axis of the indices holds places along the first axes of x, after the batch axes."""
    batch, depth = op.attribute("batch_dims", 0), op.fixed(indices, indices.rank - 1)
    places = []
    for axis in range(batch):
        count = op.call(aten.arange.default, op.shape(x)[axis], dtype=torch.int64, device=_CPU)
        shape = [-1 if a == axis else 1 for a in range(indices.rank - 1)]
        places.append(op.call(aten.reshape.default, count, shape))
    for i in range(depth):
        part = op.call(aten.select.int, indices, indices.rank - 1, i)
        places.append(from_the_front(op, part, op.shape(x)[batch + i]))
    return op.call(aten.index.Tensor, x, places)


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(op: Op, x: Operand, indices: Operand, updates: Operand) -> Any:
    axis, how = axis_of(op.attribute("axis", 0), x.rank), op.attribute("reduction", "none")
    places = from_the_front(op, indices, op.shape(x)[axis])
    if how == "none":
        return op.call(aten.scatter.src, x, axis, places, updates)
    return op.call(aten.scatter_reduce.two, x, axis, places, updates, _REDUCE[how])


def scatter_nd(op: Op, x: Operand, indices: Operand, updates: Operand) -> Any:
    depth, how = op.fixed(indices, indices.rank - 1), op.attribute("reduction", "none")
    columns = [op.call(aten.select.int, indices, indices.rank - 1, i) for i in range(depth)]
    places = [from_the_front(op, c, op.shape(x)[i]) for i, c in enumerate(columns)]
    if how in ("none", "add"):
        return op.call(aten.index_put.default, x, places, updates, how == "add")
    return _scatter_rows(op, x, places, updates, _REDUCE[how])


def _scatter_rows(op: Op, x: Operand, places: list[Any], updates: Operand, how: str) -> Any:
    """As scattering rows of the tensor with its first axes joined."""
    shape, depth = op.shape(x), len(places)
    row = None
    for place, size in zip(places, shape[:depth], strict=True):
        row = place if row is None else op.call(aten.add.Tensor, op.call(aten.mul.Tensor, row, size), place)
    width = math.prod(shape[depth:])
    flat = op.call(aten.reshape.default, x, [math.prod(shape[:depth]), width])
    new = op.call(aten.reshape.default, updates, [-1, width])
    index = op.call(aten.reshape.default, row, [-1, 1])
    index = op.call(aten.expand.default, index, op.shape(new))
    return op.call(aten.reshape.default, op.call(aten.scatter_reduce.two, flat, 0, index, new, how), shape)


def tensor_scatter(op: Op, past: Operand, update: Operand, places: Any = None) -> Any:
    """A cache with new entries written at every sequence's own place along an axis."""
    axis = axis_of(op.attribute("axis", -2), past.rank)
    length, count = op.shape(past)[axis], op.shape(update)[axis]
    steps = op.call(aten.arange.default, count, dtype=torch.int64, device=_CPU)
    if places is None:
        index = op.call(aten.reshape.default, steps, [-1 if a == axis else 1 for a in range(past.rank)])
    else:
        first = op.call(aten.reshape.default, op.cast(places, torch.int64), [-1, 1])
        index = op.call(aten.add.Tensor, first, op.call(aten.unsqueeze.default, steps, 0))
        index = op.call(aten.reshape.default, index, [-1 if a == 0 else count if a == axis else 1
                                                      for a in range(past.rank)])  # fmt: skip
    if op.attribute("mode", "linear") == "circular":
        index = op.call(aten.remainder.Scalar, index, length)
    index = op.call(aten.expand.default, index, op.shape(update))
    return op.call(aten.scatter.src, past, axis, index, update)


def one_hot(op: Op, indices: Operand, depth: Any, values: Operand) -> Any:
    count = int(op.number(depth, "depth"))
    axis = axis_of(op.attribute("axis", -1), indices.rank + 1)
    places = op.constant(torch.arange(count).reshape([-1, *[1] * (indices.rank - axis)]))
    whole = op.call(aten.remainder.Scalar, op.cast(indices, torch.int64), count)
    inside = op.call(aten.eq.Tensor, op.call(aten.unsqueeze.default, whole, axis), places)
    index = op.cast(indices, torch.int64)
    valid = op.call(aten.logical_and.default, op.call(aten.ge.Scalar, index, -count),
                    op.call(aten.lt.Scalar, index, count))  # fmt: skip
    inside = op.call(aten.logical_and.default, inside, op.call(aten.unsqueeze.default, valid, axis))
    off, on = (op.call(aten.select.int, values, 0, i) for i in (0, 1))
    return op.call(aten.where.self, inside, on, off)


def compress(op: Op, x: Operand, condition: Any) -> Any:
    keep = [i for i, c in enumerate(op.numbers(condition, "condition") or []) if c]
    axis = op.attribute("axis")
    if axis is None:
        x, axis = op.call(aten.reshape.default, x, [-1]), 0
    return op.call(aten.index_select.default, x, axis_of(axis, x.rank), op.constant(keep, torch.int64))


def non_zero(op: Op, x: Operand) -> Any:
    """Its size depends on values, so that these must be known."""
    if not isinstance(x, Constant):
        raise NeedsConstant("NonZero gives as many elements as its input has ones; packlight needs sizes that follow "
                            "from the input sizes")  # fmt: skip
    return Constant(x.tensor.nonzero().t().contiguous())


def unique(op: Op, x: Operand) -> Any:
    """As NonZero: values, first places, for every element its place among them, counts."""
    if not isinstance(x, Constant):
        raise NeedsConstant("Unique gives as many elements as differ; packlight needs sizes that follow from the "
                            "input sizes")  # fmt: skip
    axis = op.attribute("axis")
    tensor = x.tensor.reshape(-1) if axis is None else x.tensor
    along = 0 if axis is None else axis_of(axis, x.rank)
    values, inverse, counts = torch.unique(tensor, dim=along, sorted=True, return_inverse=True, return_counts=True)
    firsts = torch.tensor([int((inverse == i).nonzero()[0]) for i in range(len(counts))], dtype=torch.int64)
    if not op.attribute("sorted", 1):
        order = firsts.argsort()
        place = order.argsort()
        values, firsts, counts = values.index_select(along, order), firsts[order], counts[order]
        inverse = place[inverse]
    return [Constant(t) for t in (values, firsts, inverse.reshape(-1), counts)]


RULES: dict[str, Rule] = {
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd, "Scatter": scatter_elements,
    "ScatterElements": scatter_elements, "ScatterND": scatter_nd, "TensorScatter": tensor_scatter, "OneHot": one_hot,
    "Compress": compress, "NonZero": non_zero, "Unique": unique,
}  # fmt: skip

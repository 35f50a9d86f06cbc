"""Reductions, and operators that look along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from packlight.sources.onnx.op import Op, Rule, axis_of
from packlight.sources.onnx.values import Operand

aten = torch.ops.aten


def reduction(compute: Callable[..., Any]) -> Callable[..., Any]:
    """compute(op, x, axes, keep) over axes given as attribute or input; none means all, or nothing where told so."""

    def rule(op: Op, x: Operand, axes: Any = None) -> Any:
        chosen = op.option("axes", axes)
        if not chosen and op.attribute("noop_with_empty_axes", 0):
            return compute(op, x, [], True)
        chosen = sorted(axis_of(a, x.rank) for a in chosen) if chosen else list(range(x.rank))
        return compute(op, x, chosen, bool(op.attribute("keepdims", 1)))

    return rule


def _sum(op: Op, x: Operand, axes: list[int], keep: bool) -> Any:
    """torch sums over everything where no axis is given."""
    return op.cast(op.call(aten.sum.dim_IntList, x, axes, keep), x.dtype) if axes else x


def _mean(op: Op, x: Operand, axes: list[int], keep: bool) -> Any:
    return op.call(aten.mean.dim, x, axes, keep) if axes else x


def _extreme(target: Any) -> Callable[..., Any]:
    """Of no elements, the largest is −∞ or the least integer."""

    def compute(op: Op, x: Operand, axes: list[int], keep: bool) -> Any:
        if not axes:
            return x
        if any(s == 0 for s in op.shape(x)):
            sizes = [1 if a in axes else s for a, s in enumerate(op.shape(x)) if keep or a not in axes]
            if x.dtype == torch.bool:
                return op.cast(compute(op, op.cast(x, torch.uint8), axes, keep), torch.bool)
            bounds = torch.finfo(x.dtype) if x.dtype.is_floating_point else torch.iinfo(x.dtype)
            least = target is aten.amax.default
            number = (-math.inf if least else math.inf) if x.dtype.is_floating_point else (
                bounds.min if least else bounds.max)  # fmt: skip
            return op.call(aten.full.default, sizes, number, dtype=x.dtype, device=torch.device("cpu"))
        return op.call(target, x, axes, keep)

    return compute


def _product(op: Op, x: Operand, axes: list[int], keep: bool) -> Any:
    for axis in reversed(axes):
        x = op.cast(op.call(aten.prod.dim_int, x, axis, keep), x.dtype)
    return x


def _norm(order: int) -> Callable[..., Any]:
    def compute(op: Op, x: Operand, axes: list[int], keep: bool) -> Any:
        if not axes:
            return op.call(aten.abs.default, x)
        if not x.dtype.is_floating_point:
            made = op.call(aten.linalg_vector_norm.default, op.cast(x, torch.float64), order, axes, keep)
            return op.cast(made, x.dtype)
        return op.call(aten.linalg_vector_norm.default, x, order, axes, keep)

    return compute


def _sum_square(op: Op, x: Operand, axes: list[int], keep: bool) -> Any:
    return _sum(op, op.call(aten.mul.Tensor, x, x), axes, keep)


def _log_sum(op: Op, x: Operand, axes: list[int], keep: bool) -> Any:
    return op.call(aten.log.default, _sum(op, x, axes, keep))


def _log_sum_exp(op: Op, x: Operand, axes: list[int], keep: bool) -> Any:
    return op.call(aten.logsumexp.default, x, axes, keep) if axes else x


def arg_extreme(target: Any) -> Callable[..., Any]:
    def rule(op: Op, x: Operand) -> Any:
        axis, keep = axis_of(op.attribute("axis", 0), x.rank), bool(op.attribute("keepdims", 1))
        if not op.attribute("select_last_index", 0):
            return op.call(target, x, axis, keep)
        found = op.call(target, op.call(aten.flip.default, x, [axis]), axis, keep)
        return op.call(aten.rsub.Scalar, found, op.shape(x)[axis] - 1)

    return rule


def cumulative(target: Any, neutral: int) -> Callable[..., Any]:
    """Sums or products up to every element; `exclusive` leaves that one out, `reverse` starts at the end."""

    def rule(op: Op, x: Operand, axis: Any) -> Any:
        along = axis_of(int(op.number(axis, "axis")), x.rank)
        turned = bool(op.attribute("reverse", 0))
        x = op.call(aten.flip.default, x, [along]) if turned else x
        if op.attribute("exclusive", 0):
            padding = [0, 0] * (x.rank - 1 - along) + [1, -1]
            x = op.call(aten.constant_pad_nd.default, x, padding, neutral)
        made = op.cast(op.call(target, x, along), x.dtype)
        return op.call(aten.flip.default, made, [along]) if turned else made

    return rule


def top_k(op: Op, x: Operand, count: Any = None) -> Any:
    """Of equal elements, the first. torch's own topk does not promise that, a stable sort does."""
    axis, descending = axis_of(op.attribute("axis", -1), x.rank), bool(op.attribute("largest", 1))
    k = op.attribute("k") if count is None else op.number(count, "number of elements")
    wide = op.cast(x, torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x
    values, places = op.call(aten.sort.stable, wide, stable=True, dim=axis, descending=descending)
    values, places = (op.call(aten.slice.Tensor, t, axis, 0, k) for t in (values, places))
    return op.cast(values, x.dtype), places


RULES: dict[str, Rule] = {
    "ReduceSum": reduction(_sum), "ReduceMean": reduction(_mean), "ReduceMax": reduction(_extreme(aten.amax.default)),
    "ReduceMin": reduction(_extreme(aten.amin.default)), "ReduceProd": reduction(_product),
    "ReduceL1": reduction(_norm(1)), "ReduceL2": reduction(_norm(2)), "ReduceSumSquare": reduction(_sum_square),
    "ReduceLogSum": reduction(_log_sum), "ReduceLogSumExp": reduction(_log_sum_exp),
    "ArgMax": arg_extreme(aten.argmax.default), "ArgMin": arg_extreme(aten.argmin.default),
    "CumSum": cumulative(aten.cumsum.default, 0), "CumProd": cumulative(aten.cumprod.default, 1), "TopK": top_k,
}  # fmt: skip

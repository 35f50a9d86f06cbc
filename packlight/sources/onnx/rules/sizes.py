"""Operators on shapes: what exporters write to compute sizes, done on the sizes themselves.

These run where every input is known but for dynamic sizes. What is not here is done on tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from packlight.sources.onnx.op import Op
from packlight.sources.onnx.values import Size, known

_INTEGERS = (torch.int64, torch.int32)


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """Element by element, with broadcasting."""
    return lambda op, *arrays: np.frompyfunc(function, len(arrays), 1)(*arrays)


def _div(op: Op, a: Any, b: Any) -> Any:
    """Sizes are not negative, so that rounding down is rounding towards zero."""
    return a / b if op.node.outputs[0].dtype is not None and "FLOAT" in op.node.outputs[0].dtype.name else a // b


def _rounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(op: Op, a: Any) -> Any:
        def one(v: Any) -> Any:
            return op.trace.arithmetic(function, v) if isinstance(v, Size) else function(v)

        return np.frompyfunc(one, 1, 1)(a)

    return rule


def _extreme(function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def rule(op: Op, first: Any, *others: Any) -> Any:
        def pick(a: Any, b: Any) -> Any:
            return op.trace.arithmetic(function, a, b) if isinstance(a, Size) or isinstance(b, Size) else plain(a, b)

        for other in others:
            first = np.frompyfunc(pick, 2, 1)(first, other)
        return first

    return rule


def _gather(op: Op, a: Any, indices: Any) -> Any:
    return np.take(a, np.asarray(indices, dtype=np.int64), axis=op.attribute("axis", 0))


def _slice(op: Op, a: Any, *given: Any) -> Any:
    names = ("starts", "ends", "axes", "steps")
    inputs = dict(zip(names, given, strict=False))
    rows: dict[str, Any] = {
        n: op.attribute(n) or (list(inputs[n].flat) if inputs.get(n) is not None else None) for n in names
    }
    starts, ends = rows["starts"], rows["ends"]
    axes, steps = rows["axes"] or range(len(starts)), rows["steps"] or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = [slice(None)] * a.ndim
        place[axis] = slice(start, None if step < 0 and end < -a.shape[axis] else end, step)
        a = a[tuple(place)]
    return a


def _concat(op: Op, *arrays: Any) -> Any:
    return np.concatenate(arrays, axis=op.attribute("axis", 0))


def _unsqueeze(op: Op, a: Any, axes: Any = None) -> Any:
    chosen = op.attribute("axes") or list(np.asarray(axes, dtype=np.int64).flat)
    return np.expand_dims(a, tuple(chosen))


def _squeeze(op: Op, a: Any, axes: Any = None) -> Any:
    chosen = op.attribute("axes") or (list(np.asarray(axes, dtype=np.int64).flat) if axes is not None else None)
    return np.squeeze(a, tuple(chosen) if chosen is not None else None)


def _reshape(op: Op, a: Any, shape: Any) -> Any:
    return a.reshape([int(s) for s in np.asarray(shape, dtype=np.int64).flat])


def _product(op: Op, a: Any, axes: Any = None) -> Any:
    made = np.array(math.prod(a.flat), dtype=object)
    return made.reshape([1] * a.ndim) if op.attribute("keepdims", 1) else made


def _split(op: Op, a: Any, sizes: Any = None) -> Any:
    given = op.attribute("split") or (list(np.asarray(sizes, dtype=np.int64).flat) if sizes is not None else None)
    places = np.cumsum(given)[:-1] if given else op.outputs
    return list(np.array_split(a, places, axis=op.attribute("axis", 0)))


def _same(op: Op, a: Any) -> Any:
    return a


SIZE_RULES: dict[str, Callable[..., Any]] = {
    "Add": lambda op, a, b: a + b, "Sub": lambda op, a, b: a - b, "Mul": lambda op, a, b: a * b,
    "Div": _div, "Mod": lambda op, a, b: a % b, "Neg": lambda op, a: -a,
    "Floor": _rounded(math.floor), "Ceil": _rounded(math.ceil),
    "Max": _extreme(torch.sym_max, max), "Min": _extreme(torch.sym_min, min),
    "Equal": _each(lambda a, b: a == b), "Less": _each(lambda a, b: a < b), "Greater": _each(lambda a, b: a > b),
    "LessOrEqual": _each(lambda a, b: a <= b), "GreaterOrEqual": _each(lambda a, b: a >= b),
    "Where": _each(lambda c, a, b: a if c else b), "Gather": _gather, "Slice": _slice, "Concat": _concat,
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Reshape": _reshape, "ReduceProd": _product, "Split": _split,
    "Identity": _same,
}  # fmt: skip


def as_array(x: Any) -> Any:
    """A known operand as an array of numbers and Sizes."""
    if hasattr(x, "array"):
        return x.array
    made = np.empty(tuple(x.tensor.shape), dtype=object)
    made.reshape(-1)[:] = x.tensor.reshape(-1).tolist()
    return made


def wrapped(made: Any, dtype: torch.dtype, kind: str) -> Any:
    """What a rule of sizes gives as operands again; comparisons are of booleans."""
    compared = kind in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
    if isinstance(made, list):
        return [known(m, dtype) for m in made]
    return known(made, torch.bool if compared else dtype)

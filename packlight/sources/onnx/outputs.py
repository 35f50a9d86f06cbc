"""What a translated graph gives: its results as values of the graph, and their specs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model.spec import Dim, TensorSpec
from packlight.sources.onnx.inputs import Inputs, Points
from packlight.sources.onnx.trace import Trace
from packlight.sources.onnx.values import Constant, Sizes, Value


def as_values(trace: Trace, results: Sequence[Any]) -> list[Value]:
    """Results as values: constants are read from the Model, sizes made tensors."""
    made = []
    for result in results:
        if isinstance(result, list) or result is None:
            raise PacklightError("the network gives a sequence or nothing as an output; packlight takes tensors")
        if isinstance(result, Sizes):
            result = trace.tensor(result)
        if isinstance(result, Constant):
            metas = tuple(torch.empty_like(result.tensor, device="meta") for _ in range(trace.points))
            result = Value(trace.place(result), metas)
        made.append(result)
    return made


def output_specs(names: Sequence[str], results: Sequence[Value], inputs: Inputs, points: Points) -> list[TensorSpec]:
    """Specs of the outputs; a size that follows from input sizes is written with their names, as in "2*batch"."""
    return [
        TensorSpec(name, str(value.dtype).removeprefix("torch."), _shape(value.metas, inputs, points))
        for name, value in zip(names, results, strict=True)
    ]


def _shape(metas: Sequence[Tensor], inputs: Inputs, points: Points) -> tuple[Dim, ...]:
    columns = zip(*(m.shape for m in metas), strict=True)
    return tuple(c[0] if len(set(c)) == 1 else _expression(c, inputs, points) for c in columns)


def _expression(values: Sequence[int], inputs: Inputs, points: Points) -> str:
    """The sizes at all points as a·dim + b, a·dim₁·dim₂, or a name for "some size"."""
    rows = {d: [p[d] for p in points] for d in inputs.dims}
    for dim, sizes in rows.items():
        found = _linear(dim, sizes, values)
        if found:
            return found
    for one, sizes in rows.items():
        for other, more in rows.items():
            product = [a * b for a, b in zip(sizes, more, strict=True)]
            if one <= other and (found := _linear(f"{one}*{other}", product, values)):
                return found
    return "*".join(sorted(rows)) + "_size"


def _linear(name: str, sizes: Sequence[int], values: Sequence[int]) -> str:
    """values = slope · sizes + start, "" where they are not."""
    if sizes[0] == sizes[1]:
        return ""
    slope = Fraction(values[1] - values[0], sizes[1] - sizes[0])
    start = values[0] - slope * sizes[0]
    if not slope or any(slope * s + start != v for s, v in zip(sizes, values, strict=True)):
        return ""
    top = name if slope.numerator == 1 else f"{slope.numerator}*{name}"
    shifted = start * slope.denominator
    if shifted.denominator != 1:
        return ""
    sum_ = top if not shifted else f"{top} {'+' if shifted > 0 else '-'} {abs(int(shifted))}"
    return sum_ if slope.denominator == 1 else f"({sum_})//{slope.denominator}"

"""Matrix products. One with a constant matrix is a linear layer, its weight turned once to [outputs, inputs]."""

from __future__ import annotations

from typing import Any

import torch

from packlight.sources.onnx.op import Op, Rule
from packlight.sources.onnx.rules.elementwise import apply
from packlight.sources.onnx.values import Constant, Operand, Value

aten = torch.ops.aten


def matmul(op: Op, a: Operand, b: Operand) -> Any:
    if not a.dtype.is_floating_point:
        return _integers(op, a, b)
    if isinstance(a, Value) and isinstance(b, Constant) and b.rank == 2 and a.rank >= 2:
        return op.call(aten.linear.default, a, turned(op, b))
    source = op.trace.makes.get(b.node) if isinstance(b, Value) else None
    if isinstance(a, Value) and isinstance(source, QuantizedWeight) and a.rank >= 2:
        return op.call(aten.linear.default, a, source.turned(op))
    return op.call(aten.matmul.default, a, b)


class QuantizedWeight:
    """A two-dimensional weight behind its quantizers. turned() makes the same with its axes exchanged, once."""

    def __init__(self, make: Any):
        self._make = make
        self._made: Any = None

    def turned(self, op: Op) -> Any:
        self._made = self._made or self._make(op)
        return self._made


def turned(op: Op, weight: Constant) -> Constant:
    """[inputs, outputs] → a parameter [outputs, inputs]."""
    return op.trace.derived(op.parameter(weight), "turned", lambda t: t.t().contiguous())


def _integers(op: Op, a: Operand, b: Operand) -> Any:
    """torch multiplies matrices of signed integers only."""
    if a.dtype in (torch.int32, torch.int64):
        return op.call(aten.matmul.default, a, b)
    made = op.call(aten.matmul.default, op.cast(a, torch.int64), op.cast(b, torch.int64))
    return op.cast(made, a.dtype)


def gemm(op: Op, a: Operand, b: Operand, c: Any = None) -> Any:
    """alpha · A · B + beta · C."""
    alpha, beta = op.attribute("alpha", 1.0), op.attribute("beta", 1.0)
    if not a.dtype.is_floating_point:
        a, b = (op.cast(x, torch.int64) for x in (a, b))
    a = op.call(aten.permute.default, a, [1, 0]) if op.attribute("transA", 0) else a
    if alpha == 1.0 and beta == 1.0 and a.dtype.is_floating_point:
        bias = _bias(op, c, b)
        weight = _linear_weight(op, b)
        if isinstance(a, Value) and weight is not None and (c is None or bias is not None):
            return op.call(aten.linear.default, a, weight, bias)
    b = op.call(aten.permute.default, b, [1, 0]) if op.attribute("transB", 0) else b
    made = op.call(aten.matmul.default, a, b)
    made = made if alpha == 1.0 else op.call(aten.mul.Tensor, made, alpha)
    if c is None or beta == 0.0:
        return made
    scaled = c if beta == 1.0 else op.call(aten.mul.Tensor, c, beta)
    return apply(op, aten.add.Tensor, made, scaled)


def _linear_weight(op: Op, b: Operand) -> Any:
    """B as torch's [outputs, inputs], None where it is no weight."""
    as_stored = bool(op.attribute("transB", 0))
    if isinstance(b, Constant):
        return op.parameter(b) if as_stored else turned(op, b)
    source = op.trace.makes.get(b.node) if isinstance(b, Value) else None
    if not isinstance(source, QuantizedWeight):
        return None
    return b if as_stored else source.turned(op)


def _bias(op: Op, c: Any, b: Operand) -> Any:
    """C as the bias of a linear layer, None where it is none."""
    if not isinstance(c, Constant):
        return None
    outputs = op.shape(b)[0 if op.attribute("transB", 0) else 1]
    shape = list(c.tensor.shape)
    if shape == [outputs]:
        return op.parameter(c)
    if shape == [1, outputs]:
        return op.trace.derived(op.parameter(c), "flat", lambda t: t.reshape(-1))
    return None


def add(op: Op, a: Operand, b: Operand) -> Any:
    """A bias joins the linear layer or convolution before it, where nobody else reads that."""
    for made, other, i in ((a, b, 0), (b, a, 1)):
        if isinstance(made, Value) and isinstance(other, Constant) and _takes_bias(op, made, other, i):
            bias = op.parameter(other)
            if other.rank > 1:
                bias = op.trace.derived(bias, "flat", lambda t: t.reshape(-1))
            made.node.args = (*made.node.args[:2], op.trace.place(bias), *made.node.args[3:])
            _name_both(op, made)
            return made
    if isinstance(a, Constant) and isinstance(b, Value):
        a, b = b, a
    return apply(op, aten.add.Tensor, a, b)


_CHANNELS = {aten.linear.default: -1, aten.conv1d.default: -2, aten.conv2d.default: -3, aten.conv3d.default: -4}


def _takes_bias(op: Op, made: Value, bias: Constant, position: int) -> bool:
    axis = _CHANNELS.get(made.node.target)  # type: ignore[call-overload]
    value = op.node.inputs[position]
    if axis is None or value is None or len(value.uses()) != 1 or value.is_graph_output():
        return False
    if (len(made.node.args) > 2 and made.node.args[2] is not None) or not bias.dtype.is_floating_point:
        return False
    shape = list(bias.tensor.shape)
    channels = op.shape(made)[axis]
    at = len(shape) + axis
    return bias.tensor.numel() == channels and len(shape) <= made.rank and at >= 0 and shape[at] == channels


def _name_both(op: Op, made: Value) -> None:
    """The layer is called as its product; as the sum, where the product's name only adds to it."""
    ((product, _),) = made.node.meta["nn_module_stack"].values()
    if product.startswith(op.trace.name):
        made.node.meta["nn_module_stack"] = {"": (op.trace.name, "")}


def einsum(op: Op, *inputs: Operand) -> Any:
    equation = str(op.attribute("equation")).replace(" ", "")
    if inputs[0].dtype.is_floating_point:
        return op.call(aten.einsum.default, equation, list(inputs))
    made = op.call(aten.einsum.default, equation, [op.cast(x, torch.int64) for x in inputs])
    return op.cast(made, inputs[0].dtype)


def det(op: Op, x: Operand) -> Any:
    return op.call(aten.linalg_det.default, x)


RULES: dict[str, Rule] = {"MatMul": matmul, "Gemm": gemm, "Add": add, "Einsum": einsum, "Det": det}

"""Shapes of every value in a graph for given input sizes, without computing anything."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx import Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from packlight.errors import PacklightError
from packlight.model.model import Model
from packlight.model.silence import silenced


def propagate(model: Model, **dims: int) -> Model:
    """Refresh `meta["val"]` of every node for these sizes of the dynamic dimensions (in place); returns the model.

    Takes no memory for activations, whatever the sizes are.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    sizes = {**model.dims, **dims}
    with mode:
        inputs = [torch.empty(s.sizes(sizes), dtype=getattr(torch, s.dtype)) for s in model.inputs]
    try:
        with silenced(), torch.no_grad():
            Shapes(model.graph_module, mode).propagate_dont_convert_inputs(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, ArithmeticError) as error:
        if isinstance(error, DynamicOutputShapeException | DataDependentOutputException):
            raise PacklightError(
                f"{model.name}: a size depends on the values of a tensor ({error.func}); packlight needs sizes that "
                "follow from the input sizes"
            ) from error
        shown = ", ".join(f"{s.name} {list(i.shape)}" for s, i in zip(model.inputs, inputs, strict=True))
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PacklightError(f"{model.name} does not fit its inputs ({shown}): {reason}") from error
    return model


def with_shapes(model: Model) -> Model:
    """The model, propagated (in place) where the shape of a value is not known: that of a large one takes a second."""
    return model if all("val" in n.meta for n in model.nodes if n.op != "output") else propagate(model)


class Shapes(FakeTensorProp):
    """Writes `meta["val"]`, a fake tensor, on every node of a graph module, in place."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in RULES:
            return RULES[target](*args, **kwargs)
        if not isinstance(target, torch._ops.OpOverload) and target is not operator.getitem:
            _check_numbers(target, args)
        return super().call_function(target, args, kwargs)


def batch_norm(x: Tensor, *tensors_and_options: Any) -> Tensor:
    """The shape of batch norm's output, which torch finds by decomposing it, in 8 ms."""
    for tensor in tensors_and_options[:4]:
        if tensor is not None and tensor.shape != x.shape[1:2]:
            raise ValueError(f"batch norm of {list(x.shape)} with a parameter of shape {list(tensor.shape)}")
    return torch.empty_like(x)


def recurrent(x: Tensor, hx: Tensor | Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
    """The shapes of what a recurrent network gives, which torch finds by unrolling it, in 0.1 s a time step."""
    states = [hx] if isinstance(hx, Tensor) else list(hx)
    bidirectional = bool(options[5])
    output = x.new_empty((*x.shape[:-1], states[0].shape[-1] * (1 + bidirectional)))
    return output, *(torch.empty_like(s) for s in states)


RULES: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.batch_norm.default: batch_norm,
    torch.ops.aten.lstm.input: recurrent,
    torch.ops.aten.gru.input: recurrent,
    torch.ops.aten.rnn_tanh.input: recurrent,
    torch.ops.aten.rnn_relu.input: recurrent,
}


def _check_numbers(function: Any, args: tuple[Any, ...]) -> None:
    """Arithmetic on sizes takes numbers and small powers; on a string or a list it could ask for any memory."""
    if not all(isinstance(a, int | float) for a in args) or (function is operator.pow and abs(args[1]) > 16):
        raise TypeError(f"{function.__name__} takes sizes, got {', '.join(type(a).__name__ for a in args)}")


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a node's value after `propagate`; () for anything that is no tensor."""
    value = node.meta.get("val") if isinstance(node, Node) else node
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else ()


def bytes_of(node: Node) -> int:
    """The bytes of a node's value (all members, when it is a tuple) after `propagate`."""
    value = node.meta.get("val")
    members = value if isinstance(value, tuple | list) else (value,)
    return sum(v.numel() * v.element_size() for v in members if isinstance(v, Tensor))

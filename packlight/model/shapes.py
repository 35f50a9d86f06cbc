"""Shapes of every value in a graph for given input sizes, without computing anything."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
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
            _Shapes(model.graph_module, mode).propagate_dont_convert_inputs(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, ArithmeticError) as error:
        shown = ", ".join(f"{s.name} {list(i.shape)}" for s, i in zip(model.inputs, inputs, strict=True))
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PacklightError(f"{model.name} does not fit its inputs ({shown}): {reason}") from error
    return model


class _Shapes(FakeTensorProp):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is torch.ops.aten.batch_norm.default:
            return _batch_norm(*args)
        if not isinstance(target, torch._ops.OpOverload) and target is not operator.getitem:
            _check_numbers(target, args)
        return super().call_function(target, args, kwargs)


def _batch_norm(x: torch.Tensor, *tensors_and_options: Any) -> torch.Tensor:
    """torch's own rule decomposes batch norm, 8 ms a layer; all it says is this."""
    for tensor in tensors_and_options[:4]:
        if tensor is not None and tensor.shape != x.shape[1:2]:
            raise ValueError(f"batch norm of {list(x.shape)} with a parameter of shape {list(tensor.shape)}")
    return torch.empty_like(x)


def _check_numbers(function: Any, args: tuple[Any, ...]) -> None:
    """Arithmetic on sizes takes numbers and small powers; on a string or a list it could ask for any memory."""
    if not all(isinstance(a, int | float) for a in args) or (function is operator.pow and abs(args[1]) > 16):
        raise TypeError(f"{function.__name__} takes sizes, got {', '.join(type(a).__name__ for a in args)}")


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a node's value after `propagate`; () for anything that is no tensor."""
    value = node.meta.get("val") if isinstance(node, Node) else node
    return tuple(int(s) for s in value.shape) if isinstance(value, torch.Tensor) else ()


def bytes_of(node: Node) -> int:
    """The bytes of a node's value (all members, when it is a tuple) after `propagate`."""
    value = node.meta.get("val")
    members = value if isinstance(value, tuple | list) else (value,)
    return sum(v.numel() * v.element_size() for v in members if isinstance(v, torch.Tensor))

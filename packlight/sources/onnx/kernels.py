"""Shapes of the most frequent operators, which torch's meta kernels take a millisecond each to find.

What is not here, or not in its simplest form, is asked of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from packlight.model.shapes import RULES

aten = torch.ops.aten
_SAME = frozenset(
    getattr(aten, name)
    for name in """relu sigmoid tanh gelu silu hardtanh leaky_relu elu hardswish hardsigmoid clamp
    dropout exp sqrt erf neg abs softmax log_softmax rsqrt log softplus selu mish""".split()
)
_BINARY = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})


def shape_kernel(target: Any) -> Callable[..., Any]:
    """What computes the shape of an operator's result from tensors on the meta device."""
    if target in RULES:
        return RULES[target]
    if target in _BINARY:
        return lambda *args: _binary(target, *args)
    if getattr(target, "overloadpacket", None) in _SAME:
        return lambda x, *args, **kwargs: (
            torch.empty_like(x) if x.dtype.is_floating_point and not kwargs.get("dtype") else target(x, *args, **kwargs)
        )
    found: Callable[..., Any] = target
    return found


def _binary(target: Any, a: Any, b: Any) -> Tensor:
    if not isinstance(a, Tensor) or not a.dtype.is_floating_point:
        return target(a, b)
    if not isinstance(b, Tensor):
        return torch.empty_like(a)
    if a.dtype != b.dtype:
        return target(a, b)
    shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    return torch.empty(shape, dtype=a.dtype, device="meta")

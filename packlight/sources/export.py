"""torch.export, with one clear line when a network cannot be exported."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._C import DispatchKey
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from packlight.model.shapes import RULES
from packlight.model.silence import silenced
from packlight.sources.account import account
from packlight.sources.example import Example


def export(module: nn.Module, example: Example) -> ExportedProgram:
    """The module's training-IR graph in the mode that it is in; PacklightError with the place in the user's code.

    Gradients are recorded, so that `torch.no_grad` regions stay visible; where autograd forbids what the network
    does (writing into one of the parts that `chunk` gives), it is exported as inference runs it.
    """
    try:
        return _export(module, example, gradients=True)
    except RuntimeError as error:
        if "is a view and" not in str(error) and "a leaf Variable that requires grad" not in str(error):
            raise account(module, error) from error
    except Exception as error:  # the user's own forward runs in there: anything can be raised
        raise account(module, error) from error
    try:
        return _export(module, example, gradients=False)
    except Exception as error:  # as above
        raise account(module, error) from error


def _export(module: nn.Module, example: Example, *, gradients: bool) -> ExportedProgram:
    args, kwargs = pytree.tree_unflatten(example.leaves, example.spec)
    axes = [dict.fromkeys(example.dynamic.get(n, {}), torch.export.Dim.AUTO) for n in example.names]
    shapes: Any = None
    if any(axes):
        positional, named = pytree.tree_unflatten(axes, example.spec)
        shapes = _by_argument(module, positional, named)
    unsaid = contextlib.redirect_stderr(io.StringIO())  # a failing export prints the graph that it has so far
    with silenced(), unsaid, _quick_shapes(), torch.set_grad_enabled(gradients):
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)


@contextlib.contextmanager
def _quick_shapes() -> Iterator[None]:
    """Lend torch's tracer our shape rules: its own take 23 s for 200 steps of an LSTM and 20 ms for a batch norm."""
    own = {op: dict(op.py_kernels) for op in RULES}
    try:
        for op, rule in RULES.items():
            op.py_kernels.update(dict.fromkeys((DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd), rule))
            op._dispatch_cache.clear()
        yield
    finally:
        for op, kernels in own.items():
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()


def _by_argument(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """Argument name → dynamic axes, in the nesting that torch.export wants: *args is one entry."""
    return dict(inspect.signature(module.forward).bind(*positional, **named).arguments)

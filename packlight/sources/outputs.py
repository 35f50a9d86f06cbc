"""What an exported program takes and gives: input and output specs, dynamic dimensions by their names, nesting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model.spec import Structure, TensorSpec, leaf_names
from packlight.sources.example import Example


def user_inputs(program: ExportedProgram, example: Example) -> list[Node]:
    """The placeholders of the network's own inputs, in the example's order."""
    return [n for n in program.graph.nodes if n.op == "placeholder"][-len(example.names) :]


def symbol(node: Node, axis: int) -> sympy.Expr | None:
    """The symbol that export gave to a size, None where it is a plain number."""
    size = node.meta["val"].shape[axis]
    expression = size.node.expr if isinstance(size, torch.SymInt) else None
    return None if expression is None or expression.is_number else expression


def frozen_dims(program: ExportedProgram, example: Example) -> set[str]:
    """Dimensions that were to be dynamic and that the network's code fixes."""
    return {
        dim
        for name, node in zip(example.names, user_inputs(program, example), strict=True)
        for axis, dim in example.dynamic.get(name, {}).items()
        if symbol(node, axis) is None
    }


def input_specs(example: Example) -> list[TensorSpec]:
    """Specs of the inputs, dynamic axes by name."""
    specs = []
    for name, leaf in zip(example.names, example.leaves, strict=True):
        axes = example.dynamic.get(name, {})
        shape = tuple(axes.get(i, size) for i, size in enumerate(leaf.shape))
        specs.append(TensorSpec(name, _dtype(leaf), shape))
    return specs


def output_specs(program: ExportedProgram, structure: Structure, example: Example) -> list[TensorSpec]:
    """Specs of the outputs; a size that follows from input sizes is written with their names, as in "2*batch"."""
    names: dict[sympy.Expr, Any] = {}
    for name, leaf, node in zip(example.names, example.leaves, user_inputs(program, example), strict=True):
        for axis, size in enumerate(leaf.shape):
            found = symbol(node, axis)
            if found is not None:
                dim = example.dynamic.get(name, {}).get(axis)
                names[found] = sympy.Integer(size) if dim is None else sympy.Symbol(dim, integer=True, positive=True)
    called = leaf_names(structure)
    flat: Sequence[Any] = program.graph.output_node().args[0]
    specs = []
    for i, node in enumerate(n for n in flat if n is not None):
        sizes = [s.node.expr.xreplace(names) if isinstance(s, torch.SymInt) else s for s in node.meta["val"].shape]
        shape = tuple(int(s) if isinstance(s, int) or s.is_number else str(s) for s in sizes)
        specs.append(TensorSpec(called[i], _dtype(node.meta["val"]), shape))
    return specs


def read_structure(program: ExportedProgram) -> Structure:
    """How the outputs nest; an output that is None has no place among the flat ones."""
    flat: Sequence[Any] = program.graph.output_node().args[0]
    for value in flat:
        if value is not None and not (isinstance(value, Node) and isinstance(value.meta.get("val"), torch.Tensor)):
            shown = "a size" if isinstance(value, Node) else repr(value)
            raise PacklightError(f"the network returns {shown} beside its tensors; return tensors only")
    leaves = iter(flat)
    count = 0

    def walk(spec: Any) -> Structure:
        nonlocal count
        if spec.is_leaf():
            if next(leaves) is None:
                return None
            count += 1
            return count - 1
        children = [walk(c) for c in spec.children()]
        if spec.type is list:
            return {"list": children}
        if issubclass(spec.type, tuple):
            return {"tuple": children}
        return {"dict": dict(zip(map(str, _keys(spec)), children, strict=True))}

    return walk(program.call_spec.out_spec)


def _keys(spec: Any) -> Sequence[Any]:
    """Keys of a dict or of a registered output class (a dataclass, an OrderedDict, a Hugging Face ModelOutput)."""
    context = spec.context
    while isinstance(context, list | tuple) and len(context) != spec.num_children and context:
        context = next((c for c in context if isinstance(c, list | tuple)), ())
    if isinstance(context, list | tuple) and len(context) == spec.num_children:
        return context
    return [str(i) for i in range(spec.num_children)]


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

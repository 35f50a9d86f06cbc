"""Weights that are stored in floats of one or two bytes, and computed with in float32.

    stored ─ Cast (─ Mul factors) → weight

ONNX Runtime computes both once, when it opens the file. torch's exporter would compute some of that itself, transposes
of weights above all, and write weights in full: it is given the dequantize of a stand-in, which it leaves alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from packlight.targets.onnx_graph import initializer

if TYPE_CHECKING:
    from torch import Tensor

    from packlight.model import Model

_OPSET = 19  # the first with floats of one byte
_FIRST = 2  # indices of shared weights are held with a scale of 1


@dataclass(frozen=True)
class Stored:
    """name: of the tensor. values: of a low type. scale: float32 that broadcasts to them, or None."""

    name: str
    values: Tensor
    scale: Tensor | None


def hold_floats(model: Model) -> list[Stored]:
    """Weights in low-precision floats, frozen → dequantize of a stand-in with a scale that is the weight's number, from
    2 on, in place; the weights by number."""
    import torch

    from packlight.model.floats import narrowed
    from packlight.model.operators import load_quantized_operators

    load_quantized_operators()
    graph = model.graph_module.graph
    found: list[Stored] = []
    for given, how in narrowed(model).items():
        values, number = model.tensor(how.source), float(len(found) + _FIRST)
        found.append(Stored(str(how.source.target), values, None if how.scale is None else model.tensor(how.scale)))
        name = f"{how.source.target}_held"
        model.set_tensor(name, torch.zeros(values.shape, dtype=torch.uint8))
        with graph.inserting_before(given):
            held = graph.call_function(
                torch.ops.quantized_decomposed.dequantize_per_tensor.default,
                (graph.get_attr(name), number, 0, 0, 255, torch.uint8),
            )
        held.meta.update(given.meta)
        given.replace_all_uses_with(held)
    model.tidy()
    return found


def cast_floats(model: ir.Model, stored: list[Stored]) -> None:
    """DequantizeLinear of stand-ins → Cast (and Mul) of what is stored, in place."""
    for node in list(model.graph) if stored else ():
        weight = _stored(node, stored)
        if weight is None:
            continue
        values = initializer(model, weight.name, _array(weight.values))
        if weight.values.dtype.itemsize == 1:
            model.graph.opset_imports[""] = max(_OPSET, model.graph.opset_imports[""])
        made = [ir.node("Cast", [values], {"to": ir.DataType.FLOAT.value}, name=f"{node.name}/Cast")]
        if weight.scale is not None:
            factors = initializer(model, f"{weight.name}_scales", weight.scale.numpy())
            made.append(ir.node("Mul", [made[0].outputs[0], factors], name=node.name))
        for i, step in enumerate(made):
            step.outputs[0].name = f"{node.name}/{step.op_type}:{i}"
        model.graph.insert_before(node, made)
        result, old = made[-1].outputs[0], node.outputs[0]
        result.name, result.shape, result.type = old.name, old.shape, old.type
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def _stored(node: ir.Node, stored: list[Stored]) -> Stored | None:
    """What a DequantizeLinear stands for."""
    if node.op_type != "DequantizeLinear" or node.inputs[1] is None or node.inputs[1].const_value is None:
        return None
    scale = node.inputs[1].const_value.numpy()
    whole = scale.size == 1 and float(scale).is_integer() and _FIRST <= scale < _FIRST + len(stored)
    return stored[int(scale) - _FIRST] if whole else None


def _array(values: Tensor) -> Any:
    """A tensor as numpy knows it, by its bits: torch hands out no floats of one byte."""
    import torch

    bits = torch.uint8 if values.dtype.itemsize == 1 else torch.int16
    dtype = ir.DataType[_TYPES[str(values.dtype).removeprefix("torch.")]].numpy()
    return values.contiguous().view(bits).numpy().view(dtype)


_TYPES = {"float8_e4m3fn": "FLOAT8E4M3FN", "float8_e5m2": "FLOAT8E5M2", "bfloat16": "BFLOAT16", "float16": "FLOAT16"}

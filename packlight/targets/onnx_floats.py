"""Weights that are stored in floats of one or two bytes, and computed with in float32.

    stored ─ Cast (─ Mul factors) → weight

ONNX Runtime computes both once, when it opens the file. torch's exporter is given float32 weights, so that it need not
know such types.
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


@dataclass(frozen=True)
class Stored:
    """values: of a low type. scale: float32 that broadcasts to them, or None."""

    values: Tensor
    scale: Tensor | None


def widen(model: Model) -> dict[str, Stored]:
    """Weights in low-precision floats, frozen → float32 ones of the same values, in place; each by its name."""
    from packlight.model.floats import narrowed

    graph, found = model.graph_module.graph, {}
    for given, how in narrowed(model).items():
        values, name = model.tensor(how.source), f"{how.source.target}_wide"
        scale = None if how.scale is None else model.tensor(how.scale)
        found[name] = Stored(values, scale)
        model.set_tensor(name, values.float() if scale is None else values.float() * scale)
        with graph.inserting_before(given):
            wide = graph.get_attr(name)
        given.replace_all_uses_with(wide)
    model.tidy()
    return found


def narrow(model: ir.Model, stored: dict[str, Stored]) -> None:
    """The float32 constants that `widen` made → Cast (and Mul) of what is stored, in place. A constant that the
    exporter has computed something of stays as it is."""
    for name, weight in stored.items():
        value = model.graph.initializers.get(name)
        if value is None:
            continue
        values = initializer(model, name.removesuffix("_wide"), _array(weight.values))
        if weight.values.dtype.itemsize == 1:
            model.graph.opset_imports[""] = max(_OPSET, model.graph.opset_imports[""])
        made = [ir.node("Cast", [values], {"to": ir.DataType.FLOAT.value}, name=f"{name}/Cast")]
        if weight.scale is not None:
            factors = initializer(model, f"{values.name}_scales", weight.scale.numpy())
            made.append(ir.node("Mul", [made[0].outputs[0], factors], name=f"{name}/Mul"))
        for node in made:
            node.outputs[0].name = f"{node.name}:0"
        model.graph.insert_before(model.graph[0], made)
        value.replace_all_uses_with(made[-1].outputs[0])


def _array(values: Tensor) -> Any:
    """A tensor as numpy knows it, by its bits: torch hands out no floats of one byte."""
    import torch

    bits = torch.uint8 if values.dtype.itemsize == 1 else torch.int16
    dtype = ir.DataType[_TYPES[str(values.dtype).removeprefix("torch.")]].numpy()
    return values.contiguous().view(bits).numpy().view(dtype)


_TYPES = {"float8_e4m3fn": "FLOAT8E4M3FN", "float8_e5m2": "FLOAT8E5M2", "bfloat16": "BFLOAT16", "float16": "FLOAT16"}

"""Model → onnx_ir.Model through torch's exporter, everything in it named as the user knows it."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError

if TYPE_CHECKING:
    import onnx_ir as ir

    from packlight.model import Model

OPSET = 18
_FX_NODE = "pkg.torch.onnx.fx_node"
_CHATTY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def convert(model: Model) -> ir.Model:
    """The Model, in eval mode and with integer weights where it is quantized, as ONNX."""
    import torch
    from torch.fx import Interpreter
    from torch.fx.traceback import preserve_node_meta

    from packlight.targets.onnx_dynamic import translations

    class Named(torch.nn.Module):
        """Runs the graph node by node, so that export carries each layer's name along."""

        def __init__(self) -> None:
            super().__init__()
            self.network = model.graph_module

        def forward(self, *inputs: Any) -> Any:
            with preserve_node_meta():
                return Interpreter(self.network).run(*inputs)

    for node in model.nodes:
        node.meta["custom"] = {"layer": model.layer(node)}
    auto = torch.export.Dim.AUTO
    axes = tuple({i: auto for i, d in enumerate(s.shape) if isinstance(d, str)} for s in model.inputs)
    wide = {d: max(2, n) for d, n in model.dims.items()}  # torch.export takes a size of one for a constant
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(Named(), model.example_inputs(**wide), dynamic_shapes=(axes,), strict=False)
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, verbose=False, optimize=True,
            input_names=[s.name for s in model.inputs], output_names=[s.name for s in model.outputs],
            custom_translation_table=translations(),
        )  # fmt: skip
    assert exported is not None and exported.exported_program is not None
    graph: ir.Model = exported.model
    layers = {n.name: n.meta.get("custom", {}).get("layer") for n in exported.exported_program.graph.nodes}
    name_dimensions(graph, model)
    name_operators(graph, {k: v for k, v in layers.items() if v})
    return graph


def name_dimensions(graph: ir.Model, model: Model) -> None:
    """The user's names on the dynamic dimensions of inputs and outputs."""
    import onnx_ir as ir

    symbols = {}
    for spec, value in zip(model.inputs, graph.graph.inputs, strict=True):
        for dim, size in zip(spec.shape, value.shape or (), strict=True):
            if isinstance(dim, str) and isinstance(size, int):
                raise PacklightError(
                    f"dimension {dim!r} of input {spec.name!r} became fixed at {size} in the conversion to ONNX; "
                    "load the network with that size fixed"
                )
            symbols[str(size)] = dim
        value.shape = ir.Shape(spec.shape)
    for spec, value in zip(model.outputs, graph.graph.outputs, strict=True):
        known = [symbols.get(str(size), size) for size in value.shape or spec.shape]
        value.shape = ir.Shape([d if isinstance(d, str) else k for d, k in zip(spec.shape, known, strict=True)])


def name_operators(graph: ir.Model, layers: dict[str, str]) -> None:
    """Layer names on operators and values.

    layers: name of an exported node → the user's layer. Of the operators that a layer became, the last one bears
    the layer's name, and so does its result; the others are called "layer/MatMul" and the like. A value that the
    exporter called by some other layer's name gets a number.
    """
    for constant in list(graph.graph.initializers.values()):
        constant.name = (constant.name or "").removeprefix("network.")
    fixed = {v.name for v in (*graph.graph.inputs, *graph.graph.outputs)}
    taken = set(graph.graph.initializers) | fixed
    finished: set[str] = set()
    named: set[ir.Value] = set()
    for node in reversed(list(graph.graph)):
        layer = next((layers[v.name] for v in node.outputs if v.name in layers), None)
        layer = layer or layers.get(node.metadata_props.get(_FX_NODE, "").partition(" ")[0].removeprefix("%"))
        if layer is None:
            continue
        node.name = f"{layer}/{node.op_type}" if layer in finished else layer
        finished.add(layer)
        value = node.outputs[0]
        if len(node.outputs) == 1 and value.name not in fixed and layer not in taken and node.name == layer:
            taken.add(layer)
            value.name = layer
            named.add(value)
    for value in (v for node in graph.graph for v in node.outputs):
        if value not in named and value.name in taken and value.name not in fixed:
            value.name = next(n for i in count(1) if (n := f"{value.name}:{i}") not in taken)
            taken.add(value.name)


def unique_names(graph: ir.Model) -> None:
    """A number on every operator name but the first of its kind: runtimes refuse a file where two are equal."""
    taken = Counter(node.name for node in graph.graph)
    seen: set[str | None] = set()
    for node in graph.graph:
        if node.name in seen or not node.name:
            stem, i = node.name or node.op_type, 1
            while f"{stem}_{i}" in taken:
                i += 1
            node.name = f"{stem}_{i}"
            taken[node.name] += 1
        seen.add(node.name)

"""Relu and Clip where ONNX Runtime's quantized kernels have no place for them.

The runtime takes either for a part of the kernel before it, whose range they would be, and where that is not so it
computes all of it in float. Max and Min it leaves where they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from packlight.targets.onnx_graph import initializer, reads_quantized


def separate_activations(model: ir.Model) -> None:
    """Relu and Clip on the float result of a quantized Gemm or MatMul → Max and Min.

    The runtime takes Relu and Clip for a part of the quantized kernel, whose range they would be, and when what
    follows is not quantized it gives up the kernel: then it computes in float, 4 to 20 times slower.
    """
    for node in list(model.graph):
        source = node.inputs[0].producer() if node.op_type in ("Relu", "Clip") and node.inputs[0] is not None else None
        if source is None or source.op_type not in ("Gemm", "MatMul") or not reads_quantized(source):
            continue
        result = node.outputs[0]
        if [use.node.op_type for use in result.uses()] == ["QuantizeLinear"] and not result.is_graph_output():
            continue
        if node.op_type == "Relu":
            bounds = [("Max", initializer(model, f"{node.name}.low", np.zeros((), np.float32)))]
        else:
            bounds = [(op, v) for op, v in zip(("Max", "Min"), node.inputs[1:], strict=False) if v is not None]
        value = node.inputs[0]
        for op, bound in bounds:
            made = ir.node(op, [value, bound], name=node.name)
            value = made.outputs[0]
            value.name = f"{result.name}.{op.lower()}"
            model.graph.insert_before(node, made)
        if value is None or value is node.inputs[0]:
            continue
        value.name, value.shape, value.type = result.name, result.shape, result.type
        result.replace_all_uses_with(value, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def clamp_integers(model: ir.Model) -> None:
    """Relu and Clip between a quantized operator and QuantizeLinear → Max and Min on the integers, where they end
    within the range of these: with ranges that are symmetric around 0 a Relu cuts off their lower half.

    Rounding keeps order, so the integers are the same.
    """
    for node in list(model.graph):
        data = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        clamp = data.producer() if data is not None else None
        if data is None or clamp is None or clamp.op_type not in ("Relu", "Clip"):
            continue
        if len(data.uses()) != 1 or data.is_graph_output():
            continue
        source = clamp.inputs[0].producer() if clamp.inputs[0] is not None else None
        if source is None or not reads_quantized(source):
            continue
        bounds = _on_grid(node, clamp)
        if not bounds:
            continue
        result = node.outputs[0]
        name = result.name
        node.replace_input_with(0, clamp.inputs[0])
        value, last = result, node
        readers = list(result.uses())
        for op, bound in bounds:
            made = ir.node(op, [value, initializer(model, f"{clamp.name}.{op.lower()}", bound)], name=clamp.name)
            model.graph.insert_after(last, made)
            value, last = made.outputs[0], made
            value.name, value.type, value.shape = f"{name}.{op.lower()}", result.type, result.shape
        for use in readers:
            use.node.replace_input_with(use.idx, value)
        model.graph.remove(clamp, safe=True)


def _on_grid(quantize: ir.Node, clamp: ir.Node) -> list[tuple[str, Any]]:
    """Where a clamp ends, in the integers of what follows it: ("Max", the lower end) and ("Min", the upper one), those
    alone that leave some of them out. None where scale, zero point or an end is not one constant."""
    given = quantize.inputs[1:3]
    if len(given) < 2 or any(v is None or v.const_value is None or v.const_value.size != 1 for v in given):
        return []
    scale, zero = (v.const_value.numpy().reshape(()) for v in given)  # type: ignore[union-attr]
    ends = np.iinfo(zero.dtype)
    limits: list[Any] = [np.float32(0)] if clamp.op_type == "Relu" else []
    for value in () if limits else clamp.inputs[1:]:
        if value is not None and (value.const_value is None or value.const_value.size != 1):
            return []
        limits.append(None if value is None else value.const_value.numpy().reshape(()))  # type: ignore[union-attr]
    found = []
    for op, limit, end in zip(("Max", "Min"), limits, (ends.min, ends.max), strict=False):
        if limit is not None and np.isfinite(limit):
            bound = np.clip(np.rint(limit / scale) + int(zero), ends.min, ends.max)
            if bound != end:
                found.append((op, bound.astype(zero.dtype)))
    return found

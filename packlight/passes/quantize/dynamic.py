"""Activations whose range is taken anew at every call: no calibration data, and no range that new data can leave.

A linear layer's input x is quantized with the scale and zero point of its own extremes, over the whole tensor,
asymmetric: scale = (max(x, 0) − min(x, 0)) / 255, the arithmetic of ONNX's DynamicQuantizeLinear. Weights are as in the
static form, and the bias is added in float. The extremes of a tensor depend on what else is in the batch, so a sample's
answer can differ between batches by as much as rounding does.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Numerics
from packlight.model.operators import packet
from packlight.model.shapes import propagate
from packlight.passes.quantize.placement import Kernel, Placement

_EPSILON = 2.0**-126  # the smallest scale, of a tensor that is all zero


def dynamic_placement(placement: Placement, numerics: Numerics, model: Model) -> Placement:
    """The kernels that a target runs with ranges taken at run time, and no value with a range that is known before."""
    kernels: list[Kernel] = []
    kept = dict(placement.kept_float)
    for kernel in placement.kernels:
        if packet(kernel.first) in numerics.dynamic:
            kernels.append(kernel)
        elif kernel.group.weighted:
            kept[model.layer(kernel.first)] = "the target takes no range at run time for it"
    return Placement(kernels, kept_float=kept)


def insert_dynamic(model: Model, kernels: Sequence[Kernel], numerics: Numerics) -> None:
    """Put choose-range, quantize and dequantize before every kernel, in place; once for kernels that read one value."""
    form = replace(numerics.activation, signed=False)  # export makes them signed where the target wants that
    if form.bits != 8 or form.symmetric:
        raise PacklightError("ranges at run time are defined for asymmetric 8-bit activations")
    graph, ops = model.graph_module.graph, torch.ops.quantized_decomposed
    made: dict[Node, Node] = {}
    for kernel in kernels:
        (value,) = kernel.inputs
        if value not in made:
            with graph.inserting_before(kernel.first):
                chosen = graph.call_function(
                    ops.choose_qparams.tensor, (value, form.low, form.high, _EPSILON, torch.uint8)
                )
                scale, zero = (graph.call_function(operator.getitem, (chosen, i)) for i in (0, 1))
                settings = (scale, zero, form.low, form.high, torch.uint8)
                q = graph.call_function(ops.quantize_per_tensor.tensor, (value, *settings))
                dq = graph.call_function(ops.dequantize_per_tensor.tensor, (q, *settings))
            layer = model.layer(value)
            for node, part in ((chosen, "range"), (scale, "scale"), (zero, "zero_point"), (q, "quantize"),
                               (dq, "dequantize")):  # fmt: skip
                node.meta["layer"] = f"{layer}.{part}"
            made[value] = dq
        kernel.first.replace_input_with(value, made[value])
    propagate(model)

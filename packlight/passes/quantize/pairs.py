"""Quantize/dequantize pairs: how they stand in a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.numerics import Format


def insert_activation_pair(
    model: Model, value: Node, readers: Iterable[Node], scale: float, zero_point: int, form: Format
) -> None:
    """A pair of one scale behind a value, for these readers of it, in place."""
    graph, ops = model.graph_module.graph, torch.ops.quantized_decomposed
    dtype = torch.int8 if form.signed else torch.uint8
    settings = (scale, zero_point, form.low, form.high, dtype)
    with graph.inserting_after(value):
        q = graph.call_function(ops.quantize_per_tensor.default, (value, *settings))
    with graph.inserting_after(q):
        dq = graph.call_function(ops.dequantize_per_tensor.default, (q, *settings))
    _finish(q, dq, value, model.layer(value), dtype)
    for reader in readers:
        reader.replace_input_with(value, dq)


def insert_constant_pair(
    model: Model, source: Node, reader: Node, scales: Tensor, zeros: Tensor, form: Format, block: int | None = None
) -> None:
    """A pair between a constant and the operator that reads it, in place. scales, zeros: one a channel of axis 0; with
    `block`, one for every so many elements along axis 1."""
    graph, ops, name = model.graph_module.graph, torch.ops.quantized_decomposed, str(source.target)
    model.set_tensor(f"{name}_scale", scales)
    model.set_tensor(f"{name}_zero_point", zeros)
    ends = (form.low, form.high, torch.int8)
    with graph.inserting_before(reader):
        scale, zero = graph.get_attr(f"{name}_scale"), graph.get_attr(f"{name}_zero_point")
        if block is None:
            settings: Sequence[Any] = (scale, zero, 0, *ends)
            q = graph.call_function(ops.quantize_per_channel.default, (source, *settings))
            dq = graph.call_function(ops.dequantize_per_channel.default, (q, *settings))
        else:
            settings = (scale, zero, *ends, block)
            q = graph.call_function(ops.quantize_per_channel_group.default, (source, *settings))
            dq = graph.call_function(ops.dequantize_per_channel_group.default, (q, *settings, torch.float32))
    for node, value in ((scale, scales), (zero, zeros)):
        node.meta["val"] = torch.empty_like(value, device="meta")
    _finish(q, dq, source, f"{model.layer(reader)}.{name.rpartition('.')[2]}", torch.int8)
    reader.replace_input_with(source, dq)


def _finish(quantize: Node, dequantize: Node, source: Node, layer: str, dtype: torch.dtype) -> None:
    """Names, and the shapes that both have without asking torch again."""
    quantize.meta["layer"], dequantize.meta["layer"] = f"{layer}.quantize", f"{layer}.dequantize"
    seen = source.meta["val"]
    quantize.meta["val"] = torch.empty(seen.shape, dtype=dtype, device="meta")
    dequantize.meta["val"] = seen

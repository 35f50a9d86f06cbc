"""Recurrent layers and attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.sources.keras import layers
from packlight.sources.keras.rules.common import array, fill, rule
from packlight.sources.keras.translate import Builder, Value


@rule("LSTM", "GRU", "SimpleRNN")
def _recurrent(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    made = _cell(layer, False)
    _carry(made, layer, "")
    value = b.plain(reads[0])
    if layer.go_backwards:
        value = b.add(f"{layer.name}_backwards", lambda x: x.flip(1), [value], 3)
    return _returned(b, layer.name, made, value, layer.return_sequences)


def _returned(b: Builder, name: str, made: Any, value: Value, sequences: bool) -> Value:
    """All steps, or the last of each direction."""
    found = b.add(name, made, [value], 3)
    if sequences:
        return b.add(f"{name}_steps", lambda given: given[0], [found], 3)
    half = made.hidden_size
    if made.bidirectional:
        ends = layers.Do(lambda given: torch.cat([given[0][:, -1, :half], given[0][:, 0, half:]], 1))
        return b.add(f"{name}_last", ends, [found], 2)
    return b.add(f"{name}_last", lambda given: given[0][:, -1], [found], 2)


@rule("Bidirectional")
def _bidirectional(b: Builder, layer: Any, reads: list[Value], _: Any) -> Value:
    if layer.merge_mode != "concat" or type(layer.forward_layer).__name__ not in _GATES:
        raise PacklightError("only LSTM, GRU and SimpleRNN, joined by concat")
    made = _cell(layer.forward_layer, True)
    _carry(made, layer.forward_layer, "")
    _carry(made, layer.backward_layer, "_reverse")
    return _returned(b, layer.name, made, b.plain(reads[0]), layer.forward_layer.return_sequences)


_GATES = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}  # of Keras, in torch's order


def _cell(layer: Any, both: bool) -> Any:
    kind = type(layer).__name__
    activation = layer.activation.__name__
    usual = {"LSTM": ("tanh",), "GRU": ("tanh",), "SimpleRNN": ("tanh", "relu")}[kind]
    gates = "sigmoid" if kind == "SimpleRNN" else layer.recurrent_activation.__name__
    if activation not in usual or gates != "sigmoid" or layer.return_state or layer.stateful:
        raise PacklightError("other activations than tanh and sigmoid, and states passed on, are not translated")
    if kind == "GRU" and not layer.reset_after:
        raise PacklightError("reset_after=False is not translated")
    inputs = layer.cell.kernel.shape[0]
    if kind == "SimpleRNN":
        return nn.RNN(inputs, layer.units, nonlinearity=activation, batch_first=True, bidirectional=both)
    make = nn.LSTM if kind == "LSTM" else nn.GRU
    return make(inputs, layer.units, batch_first=True, bidirectional=both)


def _carry(made: Any, layer: Any, suffix: str) -> None:
    order, cell, units = _GATES[type(layer).__name__], layer.cell, layer.units

    def gates(value: Tensor) -> Tensor:
        parts = torch.split(value, units)
        return torch.cat([parts[i] for i in order])

    with torch.no_grad():
        getattr(made, f"weight_ih_l0{suffix}").copy_(gates(array(cell.kernel).T.contiguous()))
        getattr(made, f"weight_hh_l0{suffix}").copy_(gates(array(cell.recurrent_kernel).T.contiguous()))
        biases = [torch.zeros(len(order) * units)] * 2
        if cell.bias is not None:
            given = array(cell.bias)
            biases = [given[0], given[1]] if given.dim() > 1 else [given, biases[1]]
        for name, bias in zip(("bias_ih_l0", "bias_hh_l0"), biases, strict=True):
            getattr(made, f"{name}{suffix}").copy_(gates(bias))


@rule("MultiHeadAttention")
def _attention(b: Builder, layer: Any, reads: list[Value], given: dict[str, Any]) -> Value:
    masked = any(v is not None and k.endswith("_mask") and k != "use_causal_mask" for k, v in given.items())
    if masked or given.get("use_causal_mask") or given.get("return_attention_scores") or reads[0].rank != 3:
        raise PacklightError("masks, scores as outputs, and more than one axis of positions are not translated")
    parts = []
    for dense in (layer.query_dense, layer.key_dense, layer.value_dense):
        inputs, heads, size = dense.kernel.shape
        made = nn.Linear(inputs, heads * size, bias=dense.bias is not None)
        fill(made.weight, dense.kernel, (1, 2, 0))
        if dense.bias is not None:
            fill(made.bias, dense.bias)
        parts.append(made)
    dense = layer.output_dense
    heads, size, outputs = dense.kernel.shape
    last = nn.Linear(heads * size, outputs, bias=dense.bias is not None)
    fill(last.weight, dense.kernel, (2, 0, 1))
    if dense.bias is not None:
        fill(last.bias, dense.bias)
    if not math.isclose(layer.query_dense.kernel.shape[2], layer.key_dense.kernel.shape[2]):
        raise PacklightError("queries and keys of different sizes")
    values = [b.plain(v) for v in reads]
    return b.add(layer.name, layers.Attention(parts[0], parts[1], parts[2], last, heads), values, 3)

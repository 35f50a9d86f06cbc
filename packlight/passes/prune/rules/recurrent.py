"""Recurrent layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from packlight.model.operators import argument, packet
from packlight.passes.prune.labels import Axis, Layout
from packlight.passes.prune.rules.table import Walk, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(walk: Walk, node: Node) -> list[Layout] | None:
    """Gates' weights [gates · hidden, inputs] and [gates · hidden, hidden]. The layers and directions of one operator
    have as many hidden units, and lose the same ones, as they share the tensor of first states."""
    x: Any = node.args[0]
    states = node.args[1] if isinstance(node.args[1], list | tuple) else [node.args[1]]
    params: Any = argument(node, "params")
    if node.target._overloadname != "input":  # type: ignore[union-attr]
        return None
    gates, ways = _GATES[packet(node)], 1 + bool(argument(node, "bidirectional"))
    each = 4 if argument(node, "has_biases") else 2
    if len(params) != each * ways * int(argument(node, "num_layers")):
        return None  # projections
    hidden = walk.shape(params[1])[1]
    units = walk.labels.fresh(hidden)
    given = walk.layout(x)
    for layer in range(len(params) // each // ways):
        for way in range(ways):
            mine = params[(layer * ways + way) * each :][:each]
            for i, tensor in enumerate(mine):
                axes = walk.layout(tensor)
                walk.labels.tie(walk.labels.plain(axes[0]), np.tile(units, gates))  # type: ignore[arg-type]
                if i == 1:
                    walk.labels.tie(walk.labels.plain(axes[1]), units)  # type: ignore[arg-type]
                elif i == 0:
                    _read(walk, node, given[-1] if layer == 0 else Axis(np.tile(units, ways)), axes[1])
    for state in states:
        _read(walk, node, walk.layout(state)[-1], Axis(units))
    last: Layout = (Axis(units),)
    outputs: list[Layout] = [(*given[:-1], Axis(np.tile(units, ways)))]
    return [*outputs, *((*walk.layout(state)[:-1], *last) for state in states)]


def _read(walk: Walk, node: Node, given: Axis | None, taken: Axis | None) -> None:
    """A value's axis against a weight's."""
    if given is not None and taken is not None:
        walk.labels.tie(walk.labels.plain(given), walk.labels.plain(taken))
    else:
        walk.freeze([given, taken], walk.why(node))


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(walk: Walk, node: Node) -> Any:
    """One step: weights [gates · hidden, inputs] and [gates · hidden, hidden]."""
    given: Any = node.args
    x, states, inner, carried, *biases = given[:6]
    states = list(states) if isinstance(states, list | tuple) else [states]
    hidden = walk.shape(carried)[1]
    units = Axis(walk.labels.fresh(hidden))
    gates = Axis(np.tile(units.labels, walk.shape(carried)[0] // hidden))
    _read(walk, node, gates, walk.layout(inner)[0])
    _read(walk, node, gates, walk.layout(carried)[0])
    _read(walk, node, units, walk.layout(carried)[1])
    _read(walk, node, walk.layout(x)[-1], walk.layout(inner)[1])
    for bias in biases:
        if bias is not None:
            _read(walk, node, gates, walk.layout(bias)[0])
    for state in states:
        _read(walk, node, walk.layout(state)[-1], units)
    made = (*walk.layout(x)[:-1], units)
    return [made, made] if packet(node) == "lstm_cell" else made

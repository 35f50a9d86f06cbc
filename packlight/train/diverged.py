"""Why a loss is not a number: the first layer whose output is not finite, and what is likely behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from packlight.model import Model

_HUGE = 1e4  # weights of this size do not come from training that goes well


def likely_cause(model: Model, inputs: Sequence[Tensor]) -> str:
    """Runs the Model on the inputs once more, in its present mode, layer by layer."""
    for i, x in enumerate(inputs):
        if x.dtype.is_floating_point and not x.isfinite().all():
            return f"input {i} holds values that are not finite: look at the data or its augmentation"
    if (broken := overflowed(model)) is not None:
        return f"{broken} has overflowed: lower learning_rate"
    looked = _Looking(model)
    with torch.no_grad():
        looked.run(*inputs)
    if looked.found is None:
        return "the network's outputs are finite, so the loss itself overflows or a target is out of its range"
    largest = max((float(model.tensor(n).detach().abs().max()) for n in looked.weights), default=0.0)
    if largest > _HUGE:
        return f"layer {looked.found} overflows, with weights as large as {largest:.1e}: lower learning_rate"
    return f"layer {looked.found} is the first whose output is not finite: a division by zero, or an overflow"


def overflowed(model: Model) -> str | None:
    """The first parameter that holds a value that is not finite, or buffer with a NaN: masks hold infinities."""
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in model.named_tensors().items():
        if tensor.dtype.is_floating_point and (tensor.isnan() | (tensor.isinf() & (name in parameters))).any():
            return name
    return None


class _Looking(Interpreter):
    """Runs a graph up to the first node whose output is not finite."""

    def __init__(self, model: Model):
        super().__init__(model.graph_module)
        self.owner = model
        self.found: str | None = None
        self.weights: list[Node] = []

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        looked = self.found is None and n.op == "call_function" and isinstance(result, Tensor)
        if looked and result.dtype.is_floating_point and (result.isnan() | result.isposinf()).any():
            self.found = self.owner.layer(n)
            self.weights = [a for a in n.all_input_nodes if a.op == "get_attr"]
        return result

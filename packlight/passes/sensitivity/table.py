"""What the measures give: a value a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import packet

_WEIGHTED = (
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip


@dataclass(frozen=True)
class LayerValue:
    """One layer. elements: of its weight. value: what layers are ranked by. detail: further numbers by name."""

    layer: str
    elements: int
    value: float
    detail: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sensitivities:
    """A measure of every layer, in graph order. what: the value in words, with its unit. samples: of data."""

    measure: str
    what: str
    samples: int
    layers: tuple[LayerValue, ...]

    def ranked(self) -> list[LayerValue]:
        """The largest value first."""
        return sorted(self.layers, key=lambda row: -row.value)

    def as_json(self) -> dict[str, Any]:
        rows = [
            {"layer": r.layer, "elements": r.elements, "value": r.value, "detail": dict(r.detail)} for r in self.layers
        ]
        return {"measure": self.measure, "what": self.what, "samples": self.samples, "layers": rows}


def weighted(model: Model) -> dict[str, Node]:
    """Linear layers and convolutions whose weight is a tensor of the Model, by name, in graph order."""
    found = {}
    for node in model.nodes:
        weight = node.args[1] if packet(node) in _WEIGHTED and len(node.args) > 1 else None
        if isinstance(weight, Node) and weight.op == "get_attr":
            found[model.layer(node)] = node
    return found


def weight_of(layer: Node) -> Node:
    """The node that reads a layer's weight."""
    weight = layer.args[1]
    assert isinstance(weight, Node)
    return weight

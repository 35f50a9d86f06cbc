"""How many bits each weight and each activation gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model, matching
from packlight.model.numerics import Format
from packlight.passes.quantize.mixed import assign, damages
from packlight.passes.quantize.placement import Placement

_UNSATURATED = 7  # bits of weights of which two products with 8 bits fit into int16


@dataclass(frozen=True)
class Bits:
    """weights: 2 to 8. activations: 2 to 8; None: they stay in float. ends: of what the first and the last layers read
    and of their weights, where that is more than the others'. layers: of weights by layer-name pattern, over `weights`
    and `ends`; of several patterns that fit the last counts. mixed: of a weight in the mean, of which each layer gets 2
    to 8, as measured to change the outputs least; `layers` and `ends` hold. reduced: at most 7 of a weight, so that
    kernels on processors without VNNI cannot saturate."""

    weights: int = 8
    activations: int | None = 8
    ends: int = 8
    layers: Mapping[str, int] = field(default_factory=dict)
    mixed: float | None = None
    reduced: bool = False

    def __post_init__(self) -> None:
        given: dict[str, Any] = {"weights": self.weights, "activations": self.activations, "ends": self.ends}
        for name, bits in (given | dict(self.layers)).items():
            if name == "activations" and bits is None:
                continue
            if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
                raise PacklightError(f"quantization of {name} takes 2 to 8 bits, got {bits!r}")
        if self.mixed is not None and not 2 <= self.mixed <= 8:
            raise PacklightError(f"mixed precision takes 2 to 8 bits in the mean, got {self.mixed}")


def chosen_bits(
    model: Model, placement: Placement, bits: Bits, form: Format, batches: Sequence[tuple[Tensor, ...]], search: bool
) -> dict[Node, int]:
    """Of every weighted kernel's weight, by its first node, and of every value that is quantized for itself. batches:
    calibration inputs, for `mixed`."""
    found = dict.fromkeys(placement.values, bits.activations or 8)
    weighted = [k for k in placement.kernels if k.group.weighted]
    named = {model.layer(k.first): k.first for k in weighted}
    outer = ends_of(model, placement)
    for kernel in weighted:
        end = kernel.first in outer
        found[kernel.first] = max(bits.ends, bits.weights) if end else bits.weights
        for value in kernel.inputs if end and bits.activations else ():
            found[placement.root(value)] = max(bits.ends, bits.activations or 0)
    held: set[str] = set()
    for pattern, wanted in bits.layers.items():
        for name in matching(list(model.layers()), (pattern,)) & named.keys():
            found[named[name]] = wanted
            held.add(name)
    if bits.mixed is not None:
        held |= {name for name, node in named.items() if node in outer and bits.ends > bits.mixed}
        table = damages(model, list(named.values()), form, batches, search=search)
        mixed = assign(table, bits.mixed, {name: found[named[name]] for name in held})
        found |= {named[name]: n for name, n in mixed.items()}
    if bits.reduced:
        found |= {node: min(found[node], _UNSATURATED) for node in named.values()}
    return found


def ends_of(model: Model, placement: Placement) -> set[Node]:
    """The weighted kernels that no other one comes before, and those that no other one comes after."""
    weighted = {k.first for k in placement.kernels if k.group.weighted}
    fed: set[Node] = set()
    for node in model.nodes:
        if any(n in weighted or n in fed for n in node.all_input_nodes):
            fed.add(node)
    read: set[Node] = set()
    for node in reversed(list(model.nodes)):
        if any(n in weighted or n in read for n in node.users):
            read.add(node)
    return (weighted - fed) | (weighted - read)

"""How weights that are stored in floats of one or two bytes stand in a graph, and what they take.

    weight (─ div scale) ─ clamp ─ to low ─ to float32 (─ mul scale) → weight

weight: the float32 master. scale: float32 that broadcasts to it, > 0. Frozen, a buffer of the low type stands in place
of all that comes before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model.model import Model
from packlight.model.numerics import FLOAT_FORMATS
from packlight.model.operators import packet

_LOW = {form.dtype for form in FLOAT_FORMATS}
_WIDE = (torch.float32,)


@dataclass(frozen=True)
class Narrowed:
    """A weight that goes through a low type. source: get_attr of the master, or of the stored values. value: what is
    clamped and cast; None where the values are stored. wide: the cast back. scale: get_attr of factors. nodes: the
    operators between the source and the weight."""

    source: Node
    dtype: torch.dtype
    value: Node | None
    wide: Node
    scale: Node | None
    nodes: tuple[Node, ...]

    @property
    def bits(self) -> int:
        """Of one weight, 8 or 16."""
        return 8 * self.dtype.itemsize


def narrow(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest values of a low type; those beyond its largest are clipped."""
    most = torch.finfo(dtype).max
    return value.clamp(-most, most).to(dtype)


def insert_narrow(model: Model, weight: Node, dtype: torch.dtype, scale: Tensor | None, layer: str) -> None:
    """Have every reader of a weight (a get_attr node) read its values in a low type, in place. scale: that it is
    divided by first. layer: that the cast is named after."""
    graph, aten, name = model.graph_module.graph, torch.ops.aten, str(weight.target)
    most, readers = torch.finfo(dtype).max, list(weight.users)

    def call(operator: Any, *args: Any) -> Node:
        return graph.call_function(operator, args)

    with graph.inserting_before(weight.next):
        value, factor = weight, None
        if scale is not None:
            model.set_tensor(f"{name}_scale", scale)
            factor = graph.get_attr(f"{name}_scale")
            value = call(aten.div.Tensor, value, factor)
        low = call(aten.to.dtype, call(aten.clamp.default, value, -most, most), dtype)
        value = call(aten.to.dtype, low, *_WIDE)
        if factor is not None:
            value = call(aten.mul.Tensor, value, factor)
    value.meta["layer"] = f"{layer}.{name.rpartition('.')[2]}.cast"
    for reader in readers:
        reader.replace_input_with(weight, value)


def narrowed(model: Model) -> dict[Node, Narrowed]:
    """Every weight that is stored in a low type: the node that gives it → how."""
    learned = {n for n, _ in model.named_parameters()}
    return dict(found for node in model.nodes if (found := _narrowed(model, node, learned)) is not None)


def freeze_floats(model: Model) -> None:
    """Masters → buffers of the low type, in place; same outputs."""
    for found in narrowed(model).values():
        if found.value is None:
            continue
        value = model.tensor(found.source).detach()
        if found.scale is not None:
            value = value / model.tensor(found.scale)
        name = f"{found.source.target}_low"
        model.set_tensor(name, narrow(value, found.dtype))
        with model.graph_module.graph.inserting_before(found.wide):
            stored = model.graph_module.graph.get_attr(name)
        stored.meta["val"] = torch.empty_like(model.tensor(stored), device="meta")
        found.wide.args = (stored, *_WIDE)


def _narrowed(model: Model, wide: Node, learned: set[str]) -> tuple[Node, Narrowed] | None:
    low: Any = wide.args[0] if wide.args else None
    if packet(wide) != "to" or tuple(wide.args[1:]) != _WIDE or not isinstance(low, Node):
        return None
    users = list(wide.users)
    scaled = len(users) == 1 and packet(users[0]) == "mul" and users[0].args[0] is wide
    factor: Any = users[0].args[1] if scaled else None
    if _is_constant(low):  # parameters of a low type are the network's own
        stored = model.tensor(low).dtype
        if stored not in _LOW or str(low.target) in learned:
            return None
        ends = (users[0], factor) if _is_constant(factor) else (wide, None)
        return ends[0], Narrowed(low, stored, None, wide, ends[1], (wide,))
    clamp: Any = low.args[0] if packet(low) == "to" and low.args[1] in _LOW else None
    value: Any = clamp.args[0] if isinstance(clamp, Node) and packet(clamp) == "clamp" else None
    if not isinstance(value, Node):
        return None
    divided = packet(value) == "div"
    source: Any = value.args[0] if divided else value
    if not _is_constant(source) or (divided and not (_is_constant(factor) and _same(value.args[1], factor))):
        return None
    nodes = (*((value,) if divided else ()), clamp, low, wide)
    found = Narrowed(source, low.args[1], value, wide, factor if divided else None, nodes)  # type: ignore[arg-type]
    return users[0] if divided else wide, found


def _is_constant(value: Any) -> bool:
    return isinstance(value, Node) and value.op == "get_attr"


def _same(a: Any, b: Node) -> bool:
    return _is_constant(a) and a.target == b.target

"""Where quantize/dequantize pairs go, from a target's declared fusion groups.

A value is quantized when a low-precision kernel reads it, or when the kernel that writes it can write
nothing else. Values inside a fusion group (a convolution's output before its ReLU) are not. Transparent
operators carry their input's quantization to their output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from packlight.model import Model, matching
from packlight.model.numerics import FusionGroup, Numerics
from packlight.model.operators import kind, packet
from packlight.model.shapes import with_shapes


@dataclass
class Kernel:
    """One low-precision kernel. first: its operator; last: the follower whose result it writes, or `first`."""

    group: FusionGroup
    first: Node
    last: Node
    inputs: tuple[Node, ...]


@dataclass
class Placement:
    """values: activations to quantize, in graph order. inherits: value → the value whose scale it takes.
    readers: value → nodes that must read it dequantized. kept_float: layer → why it stays in float."""

    kernels: list[Kernel]
    values: list[Node] = field(default_factory=list)
    inherits: dict[Node, Node] = field(default_factory=dict)
    readers: dict[Node, list[Node]] = field(default_factory=dict)
    kept_float: dict[str, str] = field(default_factory=dict)

    def root(self, value: Node) -> Node:
        """The value whose scale this one takes; itself, where it has its own."""
        while value in self.inherits:
            value = self.inherits[value]
        return value


def place(model: Model, numerics: Numerics, exclude: Sequence[str] = ()) -> Placement:
    """Decide for every operator of a Model. exclude: layer-name patterns that stay in float."""
    with_shapes(model)
    excluded = matching(list(model.layers()), exclude) if exclude else set()
    kernels, kept = [], {}
    for node in model.nodes:
        group = numerics.group(packet(node))
        if node.op != "call_function" or group is None:
            if packet(node) not in numerics.stored and kind(node) in ("contraction", "rnn", "lookup"):
                kept[model.layer(node)] = f"the target has no low-precision {packet(node)}"
            continue
        reason = "excluded by name" if model.layer(node) in excluded else _unfit(node, group)
        if reason:
            if kind(node) in ("contraction", "rnn", "lookup") or model.layer(node) in excluded:
                kept[model.layer(node)] = reason
            continue
        kernels.append(Kernel(group, node, _last(node, group), _activations(node, group)))
    placement = Placement(_worthwhile(kernels, numerics), kept_float=kept)
    _collect_values(model, placement, numerics)
    return placement


def _activations(node: Node, group: FusionGroup) -> tuple[Node, ...]:
    return tuple(node.all_input_nodes[:1]) if group.weighted else tuple(dict.fromkeys(node.all_input_nodes))


def _unfit(node: Node, group: FusionGroup) -> str:
    """Why this node cannot be the group's kernel, "" when it can."""
    if group.weighted:
        weight = node.args[1]
        if not isinstance(weight, Node) or weight.op != "get_attr":
            return "its weight is computed, not constant"
        if len(weight.users) > 1:
            return "its weight is shared with another layer"
        bias = node.args[2] if len(node.args) > 2 else None
        if bias is not None and (not isinstance(bias, Node) or bias.op != "get_attr"):
            return "its bias is computed, not constant"
    elif any(n.op == "get_attr" for n in node.all_input_nodes) or _scalar_argument(node):
        return "one operand is a constant"
    values = [*_activations(node, group), node]
    if any(not _is_float_tensor(v) for v in values):
        return "it does not compute on float tensors"
    return ""


def _scalar_argument(node: Node) -> bool:
    return packet(node) in ("add", "mul", "sub") and (not isinstance(node.args[1], Node) or bool(node.kwargs))


def _is_float_tensor(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.dim() > 0


def _last(node: Node, group: FusionGroup) -> Node:
    users = list(node.users)
    return users[0] if len(users) == 1 and packet(users[0]) in group.followers else node


def _worthwhile(kernels: list[Kernel], numerics: Numerics) -> list[Kernel]:
    """Without the unweighted kernels that read no low-precision value: converting for them alone costs more."""
    chosen = [k for k in kernels if k.group.weighted]
    rest = [k for k in kernels if not k.group.weighted]
    while True:
        written = {k.last for k in chosen if k.group.output}
        fed = [k for k in rest if any(_source(i, numerics) in written for i in k.inputs)]
        if not fed:
            return chosen
        chosen += fed
        rest = [k for k in rest if k not in fed]


def _source(value: Node, numerics: Numerics) -> Node:
    while packet(value) in numerics.transparent:
        value = value.all_input_nodes[0]
    return value


def _collect_values(model: Model, placement: Placement, numerics: Numerics) -> None:
    """Fill in values, inherits and readers from the kernels."""
    written = {k.last for k in placement.kernels if k.group.output}
    wanted: dict[Node, list[Node]] = {}
    for kernel in placement.kernels:
        for value in kernel.inputs:
            reader = kernel.first
            wanted.setdefault(value, []).append(reader)
            while packet(value) in numerics.transparent and _is_float_tensor(value.all_input_nodes[0]):
                value, reader = value.all_input_nodes[0], value
                placement.inherits[reader] = value
                readers = wanted.setdefault(value, [])
                if reader not in readers:
                    readers.append(reader)
    for kernel in placement.kernels:
        if packet(kernel.first) in numerics.shared:
            for value in kernel.inputs:
                if (root := placement.root(value)) is not placement.root(kernel.last):
                    placement.inherits[root] = placement.root(kernel.last)
    placement.values = [n for n in model.nodes if n in written or n in wanted]
    for value in placement.values:
        placement.readers[value] = list(value.users) if value in written else wanted[value]

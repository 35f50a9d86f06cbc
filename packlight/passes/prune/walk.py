"""Labels for a whole network: every operator's rule in the order of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import argument, kind, packet
from packlight.model.shapes import propagate
from packlight.passes.prune.labels import Array, Axis, Labels, Layout
from packlight.passes.prune.rules import RULES, Walk

_PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43)  # sizes for dynamic dimensions that little else in a graph has
_MAKING = {"expand", "broadcast_to", "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full",
           "new_empty"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Labelled:
    """A Model whose every value has labels. layouts: by node; a list for operators with several values. unruled: layer
    → operator, of those that packlight has no rule for, so that nothing they touch is cut."""

    model: Model
    labels: Labels
    layouts: dict[Node, Any]
    unruled: dict[str, str]

    def on(self, model: Model) -> Labelled:
        """The same labels on another Model of the same graph, such as a copy."""
        layouts = dict(zip(model.nodes, self.layouts.values(), strict=True))
        return Labelled(model, self.labels, layouts, self.unruled)


def label(model: Model) -> Labelled:
    """Walk a Model (its nodes' `meta["val"]` is refreshed)."""
    propagate(model, **unusual_sizes(model))
    walk = Walk(model)
    unruled: dict[str, str] = {}
    owned: dict[int, Layout] = {}
    for node in model.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder":
            walk.layouts[node] = (None,) * value.dim() if isinstance(value, Tensor) else ()
        elif node.op == "get_attr":
            tensor = model.tensor(node)
            if id(tensor) not in owned:
                owned[id(tensor)] = _of_tensor(walk, node, tensor)
            walk.layouts[node] = owned[id(tensor)]
        elif node.op == "output":
            for result in node.all_input_nodes:
                walk.freeze(_axes(walk.layouts[result]), "an output of the network")
            walk.layouts[node] = ()
        elif kind(node) == "size" or value is None:
            walk.layouts[node] = ()
        else:
            walk.layouts[node] = _ruled(walk, node, unruled)
    return Labelled(model, walk.labels, walk.layouts, unruled)


def unusual_sizes(model: Model) -> dict[str, int]:
    """Sizes of the dynamic dimensions that tell them from all others."""
    found: dict[str, int] = {}
    for name, usual in model.dims.items():
        low, high = model.limits.get(name, (1, 2**31))
        fits = (p for p in _PRIMES if p not in found.values() and low <= p <= high)
        found[name] = next(fits, usual)
    return found


def _of_tensor(walk: Walk, node: Node, tensor: Tensor) -> Layout:
    """Labels of a parameter or buffer. The weight of a grouped convolution has labels of its own for each group's
    inputs."""
    sizes = tuple(tensor.shape)
    made = [Axis(walk.labels.fresh(s)) if s > 1 else None for s in sizes]
    groups = {_groups(user) for user in node.users if user.args.index(node) == 1} if _all_convolve(node) else {1}
    (one,) = groups if len(groups) == 1 else (1,)
    if one > 1 and len(sizes) > 1 and sizes[1] > 1 and made[0] is not None:
        inner = np.repeat(walk.labels.fresh(one, sizes[1]), sizes[0] // one, axis=0)
        made[1] = Axis(inner, (0,), made[0].labels)
    return tuple(made)


def _all_convolve(node: Node) -> bool:
    return all(packet(u).startswith("conv") and len(u.args) > 1 and u.args[1] is node for u in node.users)


def _groups(node: Node) -> int:
    return int(argument(node, "groups"))


def _ruled(walk: Walk, node: Node, unruled: dict[str, str]) -> Any:
    name, value = packet(node), node.meta["val"]
    several = isinstance(value, tuple | list)
    labelled = [a for n in node.all_input_nodes for a in _axes(walk.layouts[n])]
    if any(a is not None for a in labelled) or name in _MAKING or name == "getitem":
        rule = RULES.get(name)
        found = rule(walk, node) if rule else None
        if found is not None:
            return found
        unruled[walk.model.layer(node)] = name
        walk.freeze(labelled, f"packlight has no rule for {name} at {walk.model.layer(node)}")
    if several:
        return [(None,) * v.dim() if isinstance(v, Tensor) else () for v in value]
    return (None,) * value.dim() if isinstance(value, Tensor) else ()


def _axes(found: Any) -> list[Axis | None]:
    return [a for layout in found for a in layout] if isinstance(found, list) else list(found)


def sizes_along(axis: Axis, alive: Array) -> int:
    """How many positions along an axis live. alive: [labels], 0 or 1."""
    if not axis.on:
        return int(alive[axis.labels].sum())
    assert axis.rows is not None
    living = axis.labels.reshape(axis.rows.size, -1)[alive[axis.rows.reshape(-1)] > 0]
    return int(alive[living[0]].sum()) if len(living) else 0

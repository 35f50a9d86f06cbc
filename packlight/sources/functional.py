"""In-place operators → functional ones, with views kept right.

Writing into a tensor gives it a new value; where the tensor is a view, the write is carried into what it views
(`slice_scatter`, the inverse permutation, …), up to the tensor that owns the memory. Every other view of that memory
is taken anew when it is next read. This is how torch functionalizes (https://pytorch.org/docs/stable/func.api.html),
done on the graph so that batch norm, attention and linear stay single nodes. What has no such form is refused, at
the point where it would matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from packlight.errors import PacklightError
from packlight.model.operators import KIND, packet

_RESHAPES = frozenset("view reshape flatten unflatten _unsafe_view view_as reshape_as squeeze unsqueeze ravel".split())
_OWN_INVERSES = frozenset("transpose swapaxes swapdims t mT adjoint numpy_T".split())
_SAME = frozenset("alias contiguous to type_as positive lift_fresh".split())
_PARTS = frozenset("chunk split split_with_sizes tensor_split unbind".split())
_DROPOUTS = frozenset("dropout alpha_dropout feature_dropout feature_alpha_dropout".split())
_END = 2**63 - 1


class Values:
    """The present value of every tensor of an exported graph, as nodes of the functional graph being written.

    written: tensors that own memory and were written to.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.written: set[Node] = set()
        self._now: dict[Node, Node] = {}
        self._views: dict[Node, Node] = {}  # a view → what it was taken from
        self._parts: dict[Node, Callable[[Node], Node]] = {}  # a part of chunk, split, … → how to take it alone
        self._same: dict[Node, Node] = {}  # the result of an in-place operator → the tensor it wrote
        self._writes: dict[Node, int] = {}  # owner of memory → how often it was written
        self._seen: dict[Node, int] = {}  # tensor → the count at which its value was made
        self._spoilt: dict[Node, str] = {}  # tensor whose value is not known any more → why

    def place(self, old: Node, new: Node) -> None:
        """`new` holds the value of an exported input, parameter or buffer."""
        self._now[old] = new

    def copy(self, old: Node) -> Node:
        """Write one exported operator into the functional graph; its result there."""
        if _writes_to(old) is not None:
            return self._write(old)
        new = self.graph.node_copy(old, self.read)
        self._now[old] = new
        source = _viewed(old)
        if source is not None:
            self._views[old] = self._named(source)
            self._seen[old] = self._writes.get(self._owner(old), 0)
        return new

    def read(self, old: Node) -> Node:
        """The present value of an exported node."""
        old = self._named(old)
        if old in self._spoilt:
            raise PacklightError(self._spoilt[old])
        if old in self._views and self._seen[old] != self._writes.get(self._owner(old), 0):
            if packet(old) in _DROPOUTS:
                raise PacklightError(f"{_where(old)} reads the result of dropout after its input was written in place; "
                                     "use the operator without the underscore")  # fmt: skip
            self._now[old] = self._taken_again(old, self.read(self._views[old]))
            self._seen[old] = self._writes[self._owner(old)]
        return self._now[old]

    def _named(self, old: Node) -> Node:
        while old in self._same:
            old = self._same[old]
        return old

    def _owner(self, old: Node) -> Node:
        while old in self._views:
            old = self._views[old]
        return old

    def _write(self, old: Node) -> Node:
        target = _writes_to(old)
        assert target is not None
        target = self._named(target)
        twin = _twin(old)
        reshaped = KIND[packet(old)[:-1]] in ("reshape", "permute")
        chain = [target]
        while chain[-1] in self._views:
            chain.append(self._views[chain[-1]])
        before = [self.read(n) for n in chain]
        if old.meta.get("no_grad") and not chain[-1].meta.get("no_grad"):
            raise PacklightError(f"{_where(old)} writes, without gradient, into a tensor from outside of torch.no_grad()")
        new = self.graph.node_copy(old, self.read)
        new.target = twin
        if reshaped:  # the tensor itself has a new shape from here on: a view of what it was
            self._now[old], self._views[old], self._same[target] = new, target, old
            self._seen[old] = self._writes.get(chain[-1], 0)
            return new
        new = self._in_dtype_of(old, new)
        self._same[old] = target
        self.written.add(chain[-1])
        self._writes[chain[-1]] = self._writes.get(chain[-1], 0) + 1
        self._carry(chain, before, new)
        return new

    def _carry(self, chain: list[Node], before: list[Node], new: Node) -> None:
        """Give every tensor from a view up to the owner of its memory the value that follows from the view's."""
        spoilt = ""
        for i, tensor in enumerate(chain):
            if spoilt:
                self._spoilt[tensor] = spoilt
                continue
            self._now[tensor] = new
            self._seen[tensor] = self._writes[chain[-1]]
            if i + 1 < len(chain):
                carried = self._inverse(tensor, before[i + 1], new)
                if carried is None:
                    spoilt = f"a write into {_where(tensor)} cannot be followed back to the tensor that it is a view of; " \
                             "use the operator without the underscore"  # fmt: skip
                else:
                    new = carried

    def _inverse(self, view: Node, whole: Node, part: Node) -> Node | None:
        """The whole with the part that `view` takes from it replaced; None where that cannot be said."""
        name, aten = packet(view).removesuffix("_"), torch.ops.aten
        rest = map_arg(view.args[1:], self.read)
        if name == "getitem":
            taken = self._parts[view](whole)
            return self._inserted(taken, whole, part)
        if name in _SAME or (name == "slice" and tuple(rest[1:]) in ((0, _END), (None, None), ())):
            return part
        if name in _RESHAPES and packet(view) != "view" or (name == "view" and view.target is not aten.view.dtype):
            return self._call(aten.reshape_as.default, part, whole)
        if name in _OWN_INVERSES:
            return self._call(view.target, part, *rest)
        if name == "permute":
            dims = [d % len(rest[0]) for d in rest[0]]
            return self._call(aten.permute.default, part, [dims.index(i) for i in range(len(dims))])
        if name in ("movedim", "moveaxis"):
            return self._call(view.target, part, rest[1], rest[0])
        return self._inserted(view, whole, part)

    def _inserted(self, view: Node, whole: Node, part: Node) -> Node | None:
        scatters = {"select": "select_scatter", "slice": "slice_scatter", "diagonal": "diagonal_scatter"}
        if packet(view) not in scatters:
            return None
        scatter = getattr(torch.ops.aten, scatters[packet(view)]).default
        return self._call(scatter, whole, part, *map_arg(view.args[1:], self.read))

    def _call(self, target: Any, *args: Any) -> Node:
        return self.graph.call_function(target, args)

"""In-place operators → functional ones, with views kept right.

Writing into a tensor gives it a new value; where the tensor is a view, the write is carried into what it views
(`slice_scatter`, the inverse permutation, …), up to the tensor that owns the memory. Every other view of that memory
is taken anew when it is next read. This is torch's own functionalization (torch.func.functionalize), done on the
graph so that batch norm, attention and linear stay single nodes. A write that cannot be followed is refused when a
tensor is read that it should have changed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from packlight.errors import PacklightError
from packlight.model.naming import owner_of
from packlight.model.operators import KIND, argument, packet

aten = torch.ops.aten
_RESHAPES = frozenset("view reshape flatten unflatten _unsafe_view view_as reshape_as squeeze unsqueeze ravel".split())
_OWN_INVERSES = frozenset("transpose swapaxes swapdims t mT adjoint numpy_T".split())
_SAME = frozenset("alias contiguous to type_as positive lift_fresh".split())
_PARTS = frozenset("chunk split split_with_sizes tensor_split unbind".split())
_SCATTERS = {"select": aten.select_scatter, "slice": aten.slice_scatter, "diagonal": aten.diagonal_scatter}
_DROPOUTS = frozenset("dropout alpha_dropout feature_dropout feature_alpha_dropout".split())


def written(node: Node) -> Node | None:
    """The tensor that an operator writes into, None for one that writes nothing."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    marked = [i for i, a in enumerate(node.target._schema.arguments) if a.alias_info and a.alias_info.is_write]
    if not marked:
        return None
    if marked != [0]:
        raise PacklightError(f"{_where(node)} writes into other tensors than its first; use the form that returns them")
    return node.args[0]  # type: ignore[return-value]


def prepare(graph: Graph) -> None:
    """Simplify an exported graph (in place): results of in-place operators become the tensors that they wrote,
    `squeeze_` and its like become views, parts of memory that is written become slices of their own, and slices that
    take everything go."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    memories: set[int | None] = set()
    for node in list(graph.nodes):
        target = written(node)
        if target is None:
            continue
        memories.add(_memory(target))
        if KIND.get(packet(node)[:-1]) in ("reshape", "permute"):
            node.target = functional_twin(node)
            later = [u for u in target.users if place[u] > place[node]]
            target.replace_all_uses_with(node, delete_user_cb=later.__contains__)
        else:
            node.replace_all_uses_with(target)
    memories.discard(None)
    for node in list(graph.nodes):
        if packet(node) == "getitem" and _memory(node) in memories:
            parts: Node = node.args[0]
            if packet(parts) in _PARTS:
                _take_alone(graph, node)
            elif any(_memory(n) == _memory(node) for n in parts.all_input_nodes):
                raise PacklightError(f"memory that {_where(parts)} hands out is written in place; write out of place")
        elif takes_all(node):
            node.replace_all_uses_with(node.args[0])


def takes_all(node: Node) -> bool:
    """Whether a node is `x[:]`."""
    return packet(node) == "slice" and tuple(node.args[2:]) in ((), (0, 2**63 - 1))


def functional_twin(node: Node) -> torch._ops.OpOverload:
    """`aten.relu` for `aten.relu_`; PacklightError where torch has none that the operator table allows."""
    name, arguments = packet(node).removesuffix("_"), _signature(node.target)
    if name == "zero":
        return aten.zeros_like.default  # aten.zero has no gradient
    found = getattr(aten, name, None) if name in KIND and packet(node).endswith("_") else None
    for overload in found.overloads() if found is not None else ():
        twin: torch._ops.OpOverload = getattr(found, overload)
        if _signature(twin) == arguments and not twin._schema.is_mutable:
            return twin
    raise PacklightError(f"{_where(node)} has no functional form; use the operator without the underscore")


def _signature(target: Any) -> list[tuple[str, str]]:
    """Names and types; the first argument, which is written, is `self` for some and `input` for others."""
    first, *rest = target._schema.arguments
    return [("", str(first.type)), *((a.name, str(a.type)) for a in rest)]


class Values:
    """The present value of every tensor of a prepared graph, as nodes of the functional graph being written.

    changed: tensors that own memory and were written to.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.changed: set[Node] = set()
        self._now: dict[Node, Node] = {}
        self._views: dict[Node, Node] = {}  # a view → what it was taken from
        self._writes: dict[Node, int] = {}  # owner of memory → how often it was written
        self._seen: dict[Node, int] = {}  # view → the count at which its value was taken
        self._lost: dict[Node, str] = {}  # tensor whose value is not known any more → why

    def place(self, old: Node, new: Node) -> None:
        """`new` holds the value of an exported input, parameter or buffer."""
        self._now[old] = new

    def copy(self, old: Node) -> None:
        """Write one exported operator into the functional graph."""
        if written(old) is not None:
            self._write(old)
            return
        self._now[old] = self.graph.node_copy(old, self.read)
        source = _source(old)
        if source is not None:
            self._views[old] = source
            self._seen[old] = self._count(old)

    def read(self, old: Node) -> Node:
        """The present value of an exported node."""
        if old in self._lost:
            raise PacklightError(self._lost[old])
        if old in self._views and self._seen[old] != self._count(old):
            if packet(old) in _DROPOUTS:
                raise PacklightError(f"{_where(old)}: the input of a dropout is written in place and its result read "
                                     "afterwards; use the operator without the underscore")  # fmt: skip
            source = self._views[old]
            fresh = self.read(source)
            self._now[old] = self.graph.node_copy(old, lambda n: fresh if n is source else self.read(n))
            self._seen[old] = self._count(old)
        return self._now[old]

    def _chain(self, old: Node) -> list[Node]:
        """A tensor, what it is a view of, and so on to the owner of the memory."""
        chain = [old]
        while chain[-1] in self._views:
            chain.append(self._views[chain[-1]])
        return chain

    def _count(self, old: Node) -> int:
        return self._writes.get(self._chain(old)[-1], 0)

    def _write(self, old: Node) -> None:
        target = written(old)
        assert target is not None
        chain = self._chain(target)
        owner = chain[-1]
        if old.meta.get("no_grad") and not owner.meta.get("no_grad"):
            raise PacklightError(f"{_where(old)} writes into a tensor from outside its torch.no_grad() region")
        before = [None if n in self._lost else self.read(n) for n in chain]
        value = self._copied(old) if packet(old) == "copy_" else self._computed(old)
        self.changed.add(owner)
        self._writes[owner] = self._writes.get(owner, 0) + 1
        self._carry(old, chain, before, value)

    def _computed(self, old: Node) -> Node:
        """What an in-place operator writes, in the dtype of what it writes to."""
        new = self.graph.node_copy(old, self.read)
        new.target = functional_twin(old)
        dtype = old.args[0].meta["val"].dtype  # type: ignore[union-attr]
        return new if _result_dtype(old, new.target) == dtype else self._call(aten.to.dtype, new, dtype)

    def _copied(self, old: Node) -> Node:
        """What `x.copy_(y)` and `x[…] = y` write: y in the dtype and shape of x (aten.copy has no gradient)."""
        target, source = old.args[:2]
        assert isinstance(target, Node) and isinstance(source, Node)
        x, y = target.meta["val"], source.meta["val"]
        new = self.read(source)
        if y.dtype != x.dtype:
            new = self._call(aten.to.dtype, new, x.dtype)
        return new if str(y.shape) == str(x.shape) else self._call(aten.expand_as.default, new, self.read(target))

    def _call(self, target: Any, *args: Any) -> Node:
        return self.graph.call_function(target, args)

    def _carry(self, write: Node, chain: list[Node], before: list[Node | None], value: Node | None) -> None:
        """Give every tensor of a chain the value that follows from the first one's."""
        for i, tensor in enumerate(chain):
            if value is None:
                self._lost[tensor] = (
                    f"{_where(write)} writes through {packet(chain[i - 1])} into a tensor that is read afterwards; "
                    "use the operator without the underscore"
                )
                continue
            self._lost.pop(tensor, None)
            self._now[tensor], self._seen[tensor] = value, self._writes[chain[-1]]
            if i + 1 < len(chain):
                value = self._put_back(tensor, before[i + 1], value)

    def _put_back(self, view: Node, whole: Node | None, part: Node) -> Node | None:
        """`whole` with what `view` takes from it replaced by `part`; None where that cannot be said."""
        name, target = packet(view), view.target
        rest: Any = map_arg(view.args[1:], self.read)
        if name in _SAME:
            return part
        if name in _OWN_INVERSES:
            return self._call(target, part, *rest)
        if name == "permute":
            dims = [d % len(rest[0]) for d in rest[0]]
            return self._call(aten.permute.default, part, [dims.index(i) for i in range(len(dims))])
        if name in ("movedim", "moveaxis"):
            return self._call(target, part, rest[1], rest[0])
        if whole is None:
            return None
        if name in _RESHAPES and view.target is not aten.view.dtype:
            return self._call(aten.reshape_as.default, part, whole)
        if name in _SCATTERS:
            return self._call(_SCATTERS[name].default, whole, part, *rest)
        return None


def _source(node: Node) -> Node | None:
    """What a node is a view of: the operand in whose memory its value lies; dropout is the identity in eval mode."""
    if packet(node) in _DROPOUTS:
        return node.args[0]  # type: ignore[return-value]
    memory = _memory(node)
    return next((n for n in node.all_input_nodes if memory is not None and _memory(n) == memory), None)


def _memory(node: Node) -> int | None:
    value = node.meta.get("val")
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def _take_alone(graph: Graph, part: Node) -> None:
    """Replace one result of `x.chunk(…)` and the like by a slice of x, so that it can be put back."""
    parts, index = part.args
    assert isinstance(parts, Node) and isinstance(index, int)
    dim: int = argument(parts, "dim")
    target, where = aten.select.int, [dim, index]
    if packet(parts) != "unbind":
        sizes = [v.shape[dim] for v in parts.meta["val"]]
        if not all(isinstance(size, int) for size in sizes):
            raise PacklightError(f"{_where(parts)} cuts a dynamic dimension into parts that are written in place; "
                                 "give that dimension a fixed size or write out of place")  # fmt: skip
        target, where = aten.slice.Tensor, [dim, sum(sizes[:index]), sum(sizes[: index + 1])]
    with graph.inserting_before(part):
        alone = graph.call_function(target, (parts.args[0], *where))
    alone.meta = dict(part.meta)
    part.replace_all_uses_with(alone)
    graph.erase_node(part)


def _result_dtype(node: Node, twin: Any) -> torch.dtype:
    """The dtype that the functional form gives, which for mixed operands is not the written tensor's."""
    if KIND[packet(node)[:-1]] not in ("unary", "binary"):
        return node.args[0].meta["val"].dtype  # type: ignore[union-attr]

    def tiny(n: Node) -> Any:
        value = n.meta["val"]
        return torch.empty((1,) * value.dim(), dtype=value.dtype, device="meta") if isinstance(value, Tensor) else 1

    result: Tensor = twin(*map_arg(node.args, tiny), **map_arg(node.kwargs, tiny))
    return result.dtype


def _where(node: Node) -> str:
    """The operator and the user's module that holds it."""
    owner = owner_of(node)
    return f"{packet(node)} in {owner}" if owner else packet(node)

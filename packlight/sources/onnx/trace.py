"""Writes the graph of a Model, operator by operator.

Calling an ATen operator on constants computes it at once; on anything else it adds a node, and asks torch's meta
kernels for the shape of the result at every point (see values). That takes a tenth of the time of torch.export on a
graph that has no Python to follow.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from packlight.errors import PacklightError
from packlight.model.operators import KIND
from packlight.sources.flatten import register
from packlight.sources.onnx.kernels import shape_kernel
from packlight.sources.onnx.values import Constant, Size, Sizes, Value

aten = torch.ops.aten
_CPU, _META = torch.device("cpu"), torch.device("meta")
_KEEPS_NAME = ("reshape", "permute")
LARGEST = 1 << 31  # bytes of one folded constant


class Trace:
    """points: how many choices of the dynamic sizes are watched. name: of the ONNX node that is being read."""

    def __init__(self, points: int):
        self.points = points
        self.graph = Graph()
        self.root = nn.Module()
        self.name = ""
        self.makes: dict[Node, Any] = {}  # what a node stands for, as rules that fuse want to know
        self._placed: dict[int, tuple[Constant, Node]] = {}
        self._derived: dict[Any, Constant] = {}
        self._sizes: dict[Any, Any] = {}
        self._names: dict[str, int] = {}
        self._first: Node | None = None  # of those that compute: constants stand before it

    # inputs and tensors

    def placeholder(self, name: str, metas: Sequence[Tensor]) -> Value:
        node = self.graph.placeholder(name)
        node.meta["val"] = metas[0]
        return Value(node, tuple(metas))

    def place(self, constant: Constant) -> Node:
        """The node that reads a constant: a parameter where it weighs, else a buffer."""
        found = self._placed.get(id(constant))
        if found is None:
            name = self._free(constant.name or f"{self.name or 'graph'}.constant")
            tensor: Tensor = nn.Parameter(constant.tensor) if constant.weighs else constant.tensor
            target = register(self.root, name, tensor, owned=True)
            with self.graph.inserting_before(self._first) if self._first is not None else nullcontext():
                found = constant, self.graph.create_node("get_attr", target)
            found[1].meta["val"] = torch.empty_like(tensor, device=_META)
            self._placed[id(constant)] = found
        return found[1]

    def derived(self, constant: Constant, how: str, make: Callable[[Tensor], Tensor]) -> Constant:
        """A changed copy of a constant under its name, made once a name, so that tied weights stay tied."""
        key = constant.name or id(constant), how
        if key not in self._derived:
            self._derived[key] = Constant(make(constant.tensor), constant.name, constant.weighs)
        return self._derived[key]

    def _free(self, name: str) -> str:
        free = name
        while free in self._names:
            self._names[name] += 1
            free = f"{name}_{self._names[name]}"
        self._names[free] = 0
        return free

    # calling

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """The result of an ATen operator: a Value or a Constant, a list of them where it gives several."""
        args, kwargs = self._tensors(args), self._tensors(kwargs)
        parts = list(_leaves((args, kwargs)))
        if not any(isinstance(p, Value | Size) for p in parts):
            return self._fold(target, args, kwargs, [p for p in parts if isinstance(p, Constant)])
        return self.call_apart(target, *args, **kwargs)

    def call_apart(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """As `call`, but never computed at once."""
        node = self._add(target, _mapped(args, self._node), _mapped(kwargs, self._node))
        node.meta["nn_module_stack"] = {"": (self.name, "")}
        metas = [self._shape(target, args, kwargs, k) for k in range(self.points)]
        node.meta["val"] = metas[0]
        return self._results(node, metas)

    def _add(self, target: Any, args: Any, kwargs: Any = None) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        self._first = self._first or node
        return node

    def _tensors(self, args: Any) -> Any:
        return _mapped(args, lambda a: self.tensor(a) if isinstance(a, Sizes) else a)

    def tensor(self, sizes: Sizes) -> Value:
        """Sizes as a tensor that is computed when the Model is called."""
        scalars = [self.call(aten.scalar_tensor.default, v, dtype=sizes.dtype, device=_CPU) for v in sizes.array.flat]
        stacked: Value = scalars[0] if not sizes.rank else self.call(aten.stack.default, scalars)
        return stacked if sizes.rank < 2 else self.call(aten.view.default, stacked, list(sizes.array.shape))

    def _fold(self, target: Any, args: Any, kwargs: Any, constants: list[Constant]) -> Any:
        self._check_small(target, args, kwargs, constants)
        with torch.no_grad():
            made = target(*_mapped(args, _real), **_mapped(kwargs, _real))
        source = constants[0] if len(constants) == 1 and KIND.get(_packet(target)) in _KEEPS_NAME else None
        name, weighs = (source.name, source.weighs) if source is not None else ("", False)
        if isinstance(made, Tensor):
            return Constant(made, name, weighs)
        return [None if t is None else Constant(t) for t in made]

    def _check_small(self, target: Any, args: Any, kwargs: Any, constants: list[Constant]) -> None:
        """Refuse a constant that a few bytes of the file declare and that no memory holds."""
        given = sum(c.tensor.nbytes for c in constants)
        numbers = [a for a in _leaves((args, kwargs)) if isinstance(a, int | float)]
        if (not given and not numbers) or math.prod(abs(n) or 1 for n in numbers) * max(given, 8) < LARGEST:
            return
        try:
            made = self._shape(target, args, kwargs, 0)
        except NotImplementedError:  # its shape depends on values, so that it cannot outgrow them by much
            return
        total = sum(t.nbytes for t in (made if isinstance(made, list | tuple) else [made]) if t is not None)
        if total > max(LARGEST, 4 * given):
            raise PacklightError(f"a constant of {total / 1e9:,.1f} GB is declared; packlight computes up to "
                                 f"{LARGEST / 1e9:.1f} GB when it opens a file")  # fmt: skip

    def _node(self, argument: Any) -> Any:
        if isinstance(argument, Constant):
            return self.place(argument)
        return argument.node if isinstance(argument, Value | Size) else argument

    def _shape(self, target: Any, args: Any, kwargs: Any, point: int) -> Any:
        def at(argument: Any) -> Any:
            match argument:
                case Value():
                    return argument.metas[point]
                case Constant():
                    return torch.empty(argument.tensor.shape, dtype=argument.dtype, device=_META)
                case Size():
                    return argument.values[point]
                case torch.device():
                    return _META
            return argument

        kernel = shape_kernel(target)
        with torch.no_grad():
            return kernel(*_mapped(args, at), **_mapped(kwargs, at))

    def _results(self, node: Node, metas: list[Any]) -> Any:
        if isinstance(metas[0], Tensor):
            return Value(node, tuple(metas))
        if len({len(m) for m in metas}) > 1:
            raise PacklightError("the number of results depends on the size of a dynamic dimension")
        several = []
        for i, parts in enumerate(zip(*metas, strict=True)):
            item = self._add(operator.getitem, (node, i))
            item.meta = {"nn_module_stack": node.meta["nn_module_stack"], "val": parts[0]}
            several.append(Value(item, parts))
        return several

    # sizes

    def sizes(self, x: Value | Constant | Sizes) -> list[Any]:
        """The shape: numbers, and a Size where an axis is dynamic."""
        if isinstance(x, Value):
            return [self.size(x, axis) for axis in range(x.rank)]
        return list(x.tensor.shape if isinstance(x, Constant) else x.array.shape)

    def size(self, x: Value | Constant, axis: int) -> Any:
        if isinstance(x, Constant):
            return x.tensor.shape[axis]
        axis %= x.rank
        values = tuple(m.shape[axis] for m in x.metas)
        return self._number(aten.sym_size.int, (x.node, axis), values)

    def arithmetic(self, function: Callable[..., Any], *operands: Any) -> Any:
        """A Python function of sizes and numbers, as a node unless its value is the same at every point."""
        if not any(isinstance(o, Size) for o in operands):
            return function(*operands)
        rows = [o.values if isinstance(o, Size) else (o,) * self.points for o in operands]
        values = tuple(function(*row) for row in zip(*rows, strict=True))
        return self._number(function, tuple(self._node(o) for o in operands), values)

    def _number(self, target: Any, args: tuple[Any, ...], values: tuple[Any, ...]) -> Any:
        if len(set(values)) == 1 and len(values) > 0:
            return values[0]
        key = target, args
        if key not in self._sizes:
            self._sizes[key] = Size(self, self._add(target, args), values)
            self._sizes[key].node.meta["val"] = values[0]
        return self._sizes[key]

    # the end

    def finish(self, outputs: Sequence[Node]) -> GraphModule:
        self.graph.output(tuple(outputs))
        return GraphModule(self.root, self.graph, "PacklightGraph")


def _packet(target: Any) -> str:
    return target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else ""


def _real(argument: Any) -> Any:
    return argument.tensor if isinstance(argument, Constant) else argument


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(tree, tuple | list):
        return type(tree)(_mapped(t, change) for t in tree)
    if isinstance(tree, dict):
        return {k: _mapped(t, change) for k, t in tree.items()}
    return change(tree)


def _leaves(tree: Any) -> Any:
    if isinstance(tree, tuple | list):
        for t in tree:
            yield from _leaves(t)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()))
    else:
        yield tree

"""A TorchScript graph as a torch module that follows it with operators of packlight's table, and with nothing else."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.sources.pt2.graph import operator as on_the_list

aten = torch.ops.aten
_MAX_STEPS = 1_000_000
_MAX_TURNS = 1_000
_IGNORED = ("prim::Print", "aten::warn", "prim::profile")
_BUILT_IN = (
    "prim::Constant prim::GetAttr prim::If prim::Loop prim::ListConstruct prim::TupleConstruct prim::DictConstruct "
    "prim::ListUnpack prim::TupleUnpack prim::RaiseException"
).split()


def _raise() -> NoReturn:
    raise PacklightError("it raises an exception of its own for these inputs")


def _first(x: Any, *_: Any) -> Any:
    return x


def _append(items: list[Any], value: Any) -> list[Any]:
    items.append(value)
    return items


# What is computed by Python: on numbers, lists and None, never on tensors (but for questions about them).
_PYTHON: dict[str, Callable[..., Any]] = {
    "aten::dim": lambda x: x.dim(), "aten::len": len, "aten::size": lambda x, *d: x.size(*d),
    "aten::numel": lambda x: x.numel(), "aten::is_floating_point": lambda x: x.is_floating_point(),
    "aten::__is__": operator.is_, "aten::__isnot__": operator.is_not, "aten::__not__": operator.not_,
    "aten::__getitem__": operator.getitem, "aten::append": _append, "aten::list": list,
    "aten::Int": int, "aten::Float": float, "aten::Bool": bool, "aten::IntImplicit": int, "aten::FloatImplicit": float,
    "aten::ScalarImplicit": _first, "aten::format": lambda text, *_: text, "prim::NumToTensor": _first,
    "prim::unchecked_cast": _first, "prim::Uninitialized": lambda: None, "prim::dtype": lambda x: x.dtype,
    "prim::device": lambda x: x.device, "prim::TupleIndex": operator.getitem, "prim::min": min, "prim::max": max,
    "prim::is_cuda": lambda x: False, "prim::layout": lambda x: x.layout, "aten::device": lambda x: torch.device("cpu"),
    "aten::is_scripting": lambda: True, "aten::is_grad_enabled": lambda: False, "aten::requires_grad": lambda x: False,
    "aten::__contains__": operator.contains, "aten::keys": list,
    "aten::values": lambda d: list(d.values()), "prim::AutogradZero": lambda: None,
}  # fmt: skip
_NUMBERS: dict[str, Callable[..., Any]] = {
    "aten::add": operator.add, "aten::sub": operator.sub, "aten::mul": operator.mul, "aten::div": operator.truediv,
    "aten::floordiv": operator.floordiv, "aten::floor_divide": operator.floordiv, "aten::remainder": operator.mod,
    "aten::neg": operator.neg, "aten::eq": operator.eq, "aten::ne": operator.ne, "aten::lt": operator.lt,
    "aten::le": operator.le, "aten::gt": operator.gt, "aten::ge": operator.ge, "aten::__and__": operator.and_,
    "aten::__or__": operator.or_, "aten::floor": math.floor, "aten::ceil": math.ceil, "aten::sqrt": math.sqrt,
    "aten::slice": lambda x, a=None, b=None, s=None: x[a:b:s],
}  # fmt: skip


class Scope(nn.Module):
    """Holds the tensors of one module of the network and lends its name to the operators that this module ran."""

    def forward(self, target: Callable[..., Any], args: list[Any]) -> Any:
        return target(*args)


class Script(Scope):
    """The network: Scopes under the modules' own names, and the graph that is followed when it is called."""

    def __init__(self, script: Any):
        super().__init__()
        self._script = [script]  # in a list, so that torch does not take it for a part
        self._graph = script._c._get_method("forward").inlined_graph if hasattr(script, "_c") else script.inlined_graph
        refused = sorted({n.kind() for n in _nodes(self._graph) if not _known(n)})
        if refused:
            raise PacklightError(f"operators without a rule: {', '.join(refused[:5])}")
        for name, tensor in script.named_parameters():
            path, _, leaf = name.rpartition(".")
            grown = tensor.is_floating_point() and tensor.requires_grad
            self._scope(path).register_parameter(leaf, nn.Parameter(tensor.detach().clone(), requires_grad=grown))
        for name, tensor in script.named_buffers():
            path, _, leaf = name.rpartition(".")
            self._scope(path).register_buffer(leaf, tensor.detach().clone())
        inputs = list(self._graph.inputs())[1:]
        names = [re.sub(r"\W", "_", i.debugName().split(".")[0]) for i in inputs]
        names = [n if n.isidentifier() else f"input_{i}" for i, n in enumerate(names)]
        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._follow([*args, *(kwargs[n] for n in names[len(args) :] if n in kwargs)])

        signature: Any = inspect.Signature([inspect.Parameter(n, kinds) for n in names])
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward  # type: ignore[method-assign]

    def _scope(self, path: str) -> nn.Module:
        owner: nn.Module = self
        for part in path.split(".") if path else ():
            if part not in owner._modules:
                owner.add_module(part, Scope())
            owner = owner.get_submodule(part)
        return owner

    def _follow(self, inputs: list[Any]) -> Any:
        self._steps = 0
        formal = list(self._graph.inputs())
        if len(inputs) != len(formal) - 1:
            raise PacklightError(f"it takes {len(formal) - 1} inputs, got {len(inputs)}")
        values = {formal[0].debugName(): _Path("")}
        values |= {f.debugName(): v for f, v in zip(formal[1:], inputs, strict=True)}
        return self._block(self._graph, values)[0]

    def _block(self, block: Any, values: dict[str, Any]) -> list[Any]:
        for node in block.nodes():
            self._steps += 1
            if self._steps > _MAX_STEPS:
                raise PacklightError(f"it takes more than {_MAX_STEPS:,} steps")
            results = self._run(node, [values[i.debugName()] for i in node.inputs()], values)
            values.update(zip((o.debugName() for o in node.outputs()), results, strict=True))
        ends = block.return_node() if hasattr(block, "return_node") else block.returnNode()
        return [values[i.debugName()] for i in ends.inputs()]

    def _run(self, node: Any, args: list[Any], values: dict[str, Any]) -> list[Any]:
        kind = node.kind()
        match kind:
            case "prim::Constant":
                return [node.output().toIValue()]
            case "prim::GetAttr":
                return [self._attribute(args[0], node.s("name"))]
            case "prim::If":
                return self._block(list(node.blocks())[0 if args[0] else 1], values)
            case "prim::Loop":
                return self._loop(node, args, values)
            case "prim::ListConstruct":
                return [args]
            case "prim::TupleConstruct":
                return [tuple(args)]
            case "prim::DictConstruct":
                return [dict(zip(args[::2], args[1::2], strict=True))]
            case "prim::ListUnpack" | "prim::TupleUnpack":
                return list(args[0])
            case "prim::RaiseException":
                _raise()
        if kind in _IGNORED:
            return [None] * node.outputsSize()
        result = self._call(node, kind, args)
        return list(result) if node.outputsSize() > 1 else [result] * node.outputsSize()

    def _call(self, node: Any, kind: str, args: list[Any]) -> Any:
        tensors = any(isinstance(a, Tensor) for a in args) or any(
            isinstance(a, list | tuple) and any(isinstance(t, Tensor) for t in a) for a in args
        )
        if kind in _PYTHON:
            return _PYTHON[kind](*args)
        if kind in _NUMBERS and (not tensors or (kind == "aten::slice" and isinstance(args[0], list))):
            return _NUMBERS[kind](*args)
        if kind in ("aten::add", "aten::mul") and isinstance(args[0], list):
            return _NUMBERS[kind](*args)
        target = _convolution(args) if kind == "aten::_convolution" else partial(_bound, _target(node))
        where = self._scope(_owner(node))
        return target(*args) if where is self else where(target, args)

    def _attribute(self, owner: Any, name: str) -> Any:
        path = f"{owner}.{name}" if owner else name
        script: Any = self._script[0]
        for part in path.split("."):
            script = getattr(script, part)
        if isinstance(script, Tensor):
            module = self._scope(str(owner))
            return getattr(module, name)
        return _Path(path) if isinstance(script, nn.Module) else script

    def _loop(self, node: Any, args: list[Any], values: dict[str, Any]) -> list[Any]:
        most, going, *carried = args
        body = next(iter(node.blocks()))
        formal = [i.debugName() for i in body.inputs()]
        turn = 0
        while going and turn < most:
            if turn >= _MAX_TURNS:
                raise PacklightError(f"a loop of it has more than {_MAX_TURNS:,} turns")
            values.update(zip(formal, [turn, *carried], strict=True))
            going, *carried = self._block(body, values)
            turn += 1
        return carried


class _Path(str):
    """The dotted name of a module of the network."""


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _known(node: Any) -> bool:
    kind = node.kind()
    if kind in _BUILT_IN or kind in _PYTHON or kind in _NUMBERS or kind in _IGNORED or kind == "aten::_convolution":
        return True
    return _target(node) is not None


def _target(node: Any) -> Any:
    """The ATen operator of a node, None where it is not on the list."""
    found = re.match(r"aten::(\w+)(?:\.(\w+))?\(", str(node.schema()))
    return on_the_list(f"torch.ops.aten.{found[1]}.{found[2] or 'default'}") if found else None


def _convolution(args: list[Any]) -> Callable[..., Any]:
    """The convolution of so many axes that tracing wrote as one operator for all of them."""
    axes, transposed = args[1].dim() - 2, args[6]
    found = getattr(aten, f"conv_transpose{axes}d" if transposed else f"conv{axes}d")

    def convolve(*given: Any) -> Any:
        stride, pad, dilation, _, more, groups = given[3:9]
        rest = (stride, pad, more, groups, dilation) if transposed else (stride, pad, dilation, groups)
        return found(*given[:3], *rest)

    return convolve


def _bound(target: Any, *args: Any) -> Any:
    """Call an operator with arguments in the order of its schema, some of which are by name only."""
    schema = target._schema.arguments
    pairs = list(zip(schema, args, strict=False))
    named = {a.name: v for a, v in pairs if a.kwarg_only}
    return target(*[v for a, v in pairs if not a.kwarg_only], **named)


def _owner(node: Any) -> str:
    """The module whose tensor an operator reads, which lends it its name; "" for one that reads none."""
    for value in node.inputs():
        names = []
        made = value.node()
        if made.kind() != "prim::GetAttr" or str(value.type()) not in ("Tensor", "NoneType"):
            continue
        while made.kind() == "prim::GetAttr":
            names.append(made.s("name"))
            made = next(iter(made.inputs())).node()
        return ".".join(reversed(names[1:]))
    return ""

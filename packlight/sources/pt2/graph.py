"""The JSON graph of an exported program → torch.fx nodes of operators that are on the list, and of nothing else.

A name in the file is looked up among packlight's operators and their in-place forms; what it names otherwise is never
imported, and no text of the file is evaluated.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from packlight.errors import PacklightError
from packlight.model.graph_json import read_text
from packlight.model.operators import ASSERTIONS, KIND, PYTHON_FUNCTIONS, load_quantized_operators
from packlight.sources.pt2.archive import DTYPES, STRIDED

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}\Z")
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}  # name → where the operands begin, the body first
_MAX_NODES = 200_000
_MAX_DEPTH = 20


class Reader:
    """Writes the nodes of one program into `graph`.

    values: name in the file → node. notes: what is not kept. refused: operators that are not on the list → how often.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.notes: list[str] = []
        self.refused: dict[str, int] = {}
        self._made = 0

    def nodes(self, written: Sequence[Any], values: dict[str, Any], *, no_grad: bool = False, depth: int = 0) -> None:
        """Read the nodes of a graph or of a region inside one."""
        if depth > _MAX_DEPTH:
            raise PacklightError(f"its regions nest deeper than {_MAX_DEPTH}")
        for node in written:
            self._made += 1
            if self._made > _MAX_NODES:
                raise PacklightError(f"a graph is of {_MAX_NODES:,} nodes at most")
            self._node(node, values, no_grad, depth)

    def _node(self, written: Mapping[str, Any], values: dict[str, Any], no_grad: bool, depth: int) -> None:
        name = str(written["target"])
        region = name.removeprefix("torch.ops.higher_order.")
        if region in _REGIONS:
            self._region(region, written, values, no_grad, depth)
            return
        if _bare(name) in ASSERTIONS:
            return
        target = operator(name)
        if target is None:
            self.refused[name[:80]] = self.refused.get(name[:80], 0) + 1
            for out in written["outputs"]:
                values |= dict.fromkeys(_names(out))
            return
        args, kwargs = self._arguments(target, written["inputs"], values)
        node = self.graph.call_function(target, args, kwargs)
        node.meta = {"nn_module_stack": _stack(written.get("metadata", {})), "no_grad": no_grad}
        self._results(node, written["outputs"], values)

    def _region(self, name: str, written: Mapping[str, Any], values: dict[str, Any], no_grad: bool, depth: int) -> None:
        """The operators of a `no_grad` or `autocast` region, in place of it (as packlight.sources.regions does)."""
        given = [i["arg"] for i in written["inputs"]]
        first = _REGIONS[name]
        body = given[first]["as_graph"]["graph"]
        without = name == "wrap_with_set_grad_enabled" and given[0]["as_bool"] is False
        if name == "wrap_with_autocast" and given[2].get("as_bool") is True:
            self.notes.append("an autocast region is computed in full precision")
        inner: dict[str, Any] = {}
        for formal, actual in zip(body["inputs"], given[first + 1 :], strict=True):
            inner |= dict(zip(_names(formal), [self.value(actual, values)], strict=False))
        self.nodes(body["nodes"], inner, no_grad=no_grad or without, depth=depth + 1)
        results = [self.value(r, inner) for r in body["outputs"]]
        if without:
            results = [self._detached(r) for r in results]
        names = [n for out in written["outputs"] for n in _names(out)]
        values |= dict(zip(names, results, strict=True))

    def _detached(self, value: Any) -> Any:
        if not isinstance(value, Node):
            return value
        made = self.graph.call_function(torch.ops.aten.detach.default, (value,))
        made.meta = dict(value.meta)
        return made

    def _arguments(
        self, target: Any, written: Sequence[Any], values: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = [(str(i["name"]), self.value(i["arg"], values)) for i in written]
        if not isinstance(target, torch._ops.OpOverload):
            return tuple(v for _, v in given), {}
        schema = target._schema.arguments
        known = {a.name for a in schema}
        unknown = next((n for n, _ in given if n not in known), None)
        if unknown is not None:
            raise PacklightError(f"operator {target} takes no {unknown[:40]!r}")
        bound = dict(given)
        kwargs = {a.name: bound.pop(a.name) for a in schema if a.kwarg_only and a.name in bound}
        args = []
        for a in schema:
            if not bound:
                break
            args.append(bound.pop(a.name) if a.name in bound else a.default_value)
        return tuple(args), kwargs

    def _results(self, node: Node, outputs: Sequence[Mapping[str, Any]], values: dict[str, Any]) -> None:
        several = len(outputs) > 1 or any("as_tensors" in o or "as_optional_tensors" in o for o in outputs)
        if not several:
            values |= {n: node for out in outputs for n in _names(out)}
            return
        names = outputs if len(outputs) > 1 else next(iter(outputs[0].values()))
        for i, out in enumerate(names):
            for name in _names(out):
                part = self.graph.call_function(PYTHON_FUNCTIONS["getitem"], (node, i))
                part.meta = dict(node.meta)
                values[name] = part

    def value(self, written: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        """What an argument in the file stands for: a node, a plain value, a dtype and the like."""
        if len(written) != 1:
            raise PacklightError(f"{str(written)[:80]} is not an argument")
        (kind, held), *_ = written.items()
        match kind:
            case "as_none":
                return None
            case "as_tensor" | "as_sym_int" | "as_sym_bool" | "as_sym_float":
                return self._named(held, values)
            case "as_tensors" | "as_sym_ints" | "as_sym_floats" | "as_sym_bools" | "as_optional_tensors":
                return [self._named(h, values) for h in held]
            case "as_optional_tensor":
                return self._named(held, values)
            case "as_int" | "as_bool" | "as_string":
                return _plain(held)
            case "as_float":
                return float(held)
            case "as_ints" | "as_bools" | "as_strings" | "as_int_lists":
                return [_plain(h) for h in held]
            case "as_floats":
                return [float(h) for h in held]
            case "as_scalar_type" if held in DTYPES:
                return DTYPES[held]
            case "as_memory_format" if held in _FORMATS:
                return _FORMATS[held]
            case "as_layout" if held == STRIDED:
                return torch.strided
            case "as_device":
                return torch.device("cpu")
        raise PacklightError(f"an argument of kind {str(kind)[:40]!r} is not read without trust=True")

    def _named(self, held: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        if "name" not in held and len(held) == 1 and not (held.keys() & {"as_name"}):
            (kind, inner), *_ = held.items()
            return self._named(inner, values) if kind == "as_tensor" else None if kind == "as_none" else _plain(inner)
        name = held.get("name", held.get("as_name"))
        if name not in values:
            raise PacklightError(f"value {str(name)[:80]!r} is used before it is made")
        return values[name]


def operator(name: str) -> Any:
    """The operator that a file may name: one of packlight's table, or its in-place form; None for all others."""
    if not name.startswith("torch.ops."):
        module, _, bare = name.rpartition(".")
        known = module in ("_operator", "operator", "math", "torch", "torch.sym", "torch._sym_ops")
        return PYTHON_FUNCTIONS.get(bare) if known and bare != "getitem" else None
    namespace, _, rest = name.removeprefix("torch.ops.").partition(".")
    packet, _, overload = rest.partition(".")
    if namespace not in ("aten", "quantized_decomposed") or not (packet in KIND or packet.removesuffix("_") in KIND):
        return None
    if namespace == "quantized_decomposed":
        load_quantized_operators()
    found = getattr(getattr(torch.ops, namespace), packet, None)
    if not isinstance(found, torch._ops.OpOverloadPacket) or overload not in found.overloads():  # type: ignore[no-untyped-call]
        return None
    return getattr(found, overload)


def identifier(name: Any) -> str:
    """A name that may stand in generated code."""
    if not isinstance(name, str) or not _IDENTIFIER.match(name) or keyword.iskeyword(name):
        raise PacklightError(f"input name {str(name)[:80]!r} is no identifier")
    return name


def _bare(name: str) -> str:
    return name.removeprefix("torch.ops.aten.").partition(".")[0]


def _names(written: Any) -> list[str]:
    """Names of the values that an output in the file stands for."""
    match written:
        case {"name": str(name)} | {"as_name": str(name)}:
            return [name]
        case {"as_none": _}:
            return []
        case dict():
            return [n for held in written.values() for n in _names(held)]
        case list():
            return [n for held in written for n in _names(held)]
    return []


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if not isinstance(value, bool | int | float | str):
        raise PacklightError(f"{str(value)[:80]!r} is not a number or text")
    return value


def _stack(metadata: Mapping[str, str]) -> dict[str, tuple[str, object]]:
    """The modules that hold an operator, outermost first, as torch.export keeps them on a node."""
    entries = [e.split(",", 2) for e in str(metadata.get("nn_module_stack", "")).split(";") if e]
    return {read_text(e[0]): (read_text(e[1])[:400], "") for e in entries if len(e) > 1}

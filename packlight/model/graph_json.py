"""A graph as plain JSON values, and back without trusting a word of it.

Reading looks operators up in the operator table and nowhere else, checks every name before it can reach
generated code, and takes nothing but numbers, text, dtypes and references to earlier nodes as arguments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from packlight.errors import PacklightError
from packlight.model.operators import MODE_ARGUMENTS, packet, resolve, target_name

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}\Z")
_MAX_NODES = 200_000
DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
_LAYOUTS = {"strided": torch.strided}
_MEMORY_FORMATS = {
    "contiguous_format": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
    "preserve_format": torch.preserve_format,
}


def write_graph(nodes: Iterable[Node]) -> list[dict[str, Any]]:
    """One JSON object a node. Raises PacklightError on an operator that is not in the operator table."""
    return [_write_node(n) for n in nodes]


def read_graph(written: Any, tensors: Container[str]) -> Graph:
    """The graph that `write_graph` described, reading tensors of these names, or PacklightError."""
    if not isinstance(written, list) or len(written) > _MAX_NODES:
        raise PacklightError(f"a graph is a list of {_MAX_NODES:,} nodes at most")
    graph = Graph()
    made: dict[str, Node] = {}
    for position, w in enumerate(written):
        if (w["op"] == "output") != (position == len(written) - 1):
            raise PacklightError("the last node of a graph, and no other, is its output")
        name = w["name"]
        if not isinstance(name, str) or not _IDENTIFIER.match(name) or name in made:
            raise PacklightError(f"node name {str(name)[:80]!r} is not a new identifier")
        made[name] = _read_node(graph, w, name, made, tensors)
    return graph


def read_text(value: Any) -> str:
    """A line of text that is safe to print: no control characters."""
    if not isinstance(value, str):
        raise PacklightError(f"{str(value)[:80]!r} is not text")
    return value if value.isprintable() else "".join(c if c.isprintable() else "?" for c in value)


def _write_node(node: Node) -> dict[str, Any]:
    written: dict[str, Any] = {"op": node.op, "name": node.name}
    if node.op == "get_attr":
        written["target"] = str(node.target)
    elif node.op == "call_function":
        target = target_name(node)
        if target is None:
            raise PacklightError(
                f"operator {node.target} (layer {node.meta.get('layer', node.name)!r}) is not in packlight's "
                "operator table, so it cannot be written to a file"
            )
        written["target"] = target
        written |= {key: node.meta[key] for key in ("layer", "modes") if key in node.meta}
    if node.args:
        written["args"] = _write_value(list(node.args))
    if node.kwargs:
        written["kwargs"] = {k: _write_value(v) for k, v in node.kwargs.items()}
    return written


def _write_value(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case Node():
            return {"node": value.name}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.device():
            return {"device": "cpu"}
        case torch.layout():
            return {"layout": str(value).removeprefix("torch.")}
        case torch.memory_format():
            return {"memory_format": str(value).removeprefix("torch.")}
        case slice():
            return {"slice": [_write_value(v) for v in (value.start, value.stop, value.step)]}
        case list() | tuple():
            return [_write_value(v) for v in value]
    raise PacklightError(f"a graph argument of type {type(value).__name__} cannot be written to a file")


def _read_node(graph: Graph, w: Any, name: str, made: Mapping[str, Node], tensors: Container[str]) -> Node:
    args = tuple(_read_value(v, made) for v in w.get("args", ()))
    kwargs = {_identifier(k): _read_value(v, made) for k, v in w.get("kwargs", {}).items()}
    match w["op"]:
        case "placeholder":
            return graph.placeholder(name)
        case "get_attr":
            if w["target"] not in tensors:
                raise PacklightError(f"node {name} reads tensor {str(w['target'])[:80]!r}, which the file lacks")
            return graph.create_node("get_attr", w["target"], name=name)
        case "call_function":
            target = resolve(str(w["target"]))
            if target is None:
                raise PacklightError(f"operator {str(w['target'])[:80]!r} is not in packlight's operator table")
            node = graph.create_node("call_function", target, args, kwargs, name=name)
            _read_meta(node, w)
            return node
        case "output":
            if len(args) != 1 or not isinstance(args[0], list) or not all(isinstance(a, Node) for a in args[0]):
                raise PacklightError("a graph's output is one list of nodes")
            return graph.output(tuple(args[0]))
    raise PacklightError(f"node {name} has unknown kind {str(w['op'])[:40]!r}")


def _read_meta(node: Node, written: Mapping[str, Any]) -> None:
    if "layer" in written:
        node.meta["layer"] = read_text(written["layer"])
    if "modes" in written:
        modes = {}
        for argument, (in_eval, in_train) in written["modes"].items():
            if argument not in MODE_ARGUMENTS.get(packet(node), ()):
                raise PacklightError(f"node {node.name}: training does not change its {str(argument)[:80]!r}")
            if not all(isinstance(v, bool | int | float) for v in (in_eval, in_train)):
                raise PacklightError(f"node {node.name}: mode values must be numbers or booleans")
            modes[argument] = (in_eval, in_train)
        node.meta["modes"] = modes


def _identifier(name: Any) -> str:
    if not isinstance(name, str) or not _IDENTIFIER.match(name):
        raise PacklightError(f"{str(name)[:80]!r} is not an argument name")
    return name


def _read_value(value: Any, made: Mapping[str, Node]) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_read_value(v, made) for v in value]
        case {"node": str(name)} if len(value) == 1:
            if name not in made:
                raise PacklightError(f"node {name[:80]!r} is used before it is made")
            return made[name]
        case {"float": str(number)}:
            return float(number)
        case {"dtype": str(name)}:
            return DTYPES[name]
        case {"device": _}:
            return torch.device("cpu")
        case {"layout": str(name)}:
            return _LAYOUTS[name]
        case {"memory_format": str(name)}:
            return _MEMORY_FORMATS[name]
        case {"slice": [start, stop, step]}:
            return slice(*(_read_value(v, made) for v in (start, stop, step)))
    raise PacklightError(f"{str(value)[:80]!r} is not a graph argument")

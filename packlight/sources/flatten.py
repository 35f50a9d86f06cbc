"""An exported program → a flat graph module with functional operators and tensors of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node

from packlight.errors import PacklightError
from packlight.model.operators import ASSERTIONS, kind, packet
from packlight.sources.functional import Values, prepare

_ODD = re.compile(r"[^A-Za-z0-9_\- ]")


def flatten(program: ExportedProgram) -> tuple[GraphModule, list[str]]:
    """The program's graph (regions inlined, modes recorded) over copies of its tensors, and notes on what changed.

    Parameters and buffers keep their names; one held under several names is kept once, under the first.
    """
    return flatten_graph(program.graph_module.graph, _tensors(program))


def flatten_graph(exported: Graph, tensors: Mapping[Node, tuple[str, Tensor]]) -> tuple[GraphModule, list[str]]:
    """The same of a graph alone. tensors: its placeholders that stand for tensors, with the name and value of each."""
    _merge_tied(exported, tensors)
    prepare(exported)
    root, graph = nn.Module(), Graph()
    values = Values(graph)
    names: dict[Node, str] = {}
    for node in exported.nodes:
        if node in tensors:
            name, value = tensors[node]
            names[node] = register(root, name, value)
            values.place(node, graph.get_attr(names[node]))
        elif node.op == "placeholder":
            values.place(node, graph.placeholder(node.name))
        elif node.op == "output":
            results = [r for r in node.args[0] if r is not None]
            graph.output(tuple(values.read(r) for r in results))
        elif packet(node) not in ASSERTIONS:
            values.copy(node)
    module = GraphModule(root, graph, "PacklightGraph")
    for node in graph.nodes:
        node.meta = {k: v for k, v in node.meta.items() if k in ("nn_module_stack", "modes")}
    renamed = [f"{n!r} is called {names[t]!r} here" for t, (n, _) in tensors.items() if t in names and names[t] != n]
    return module, [*renamed, *_state_notes(graph, {names[n] for n in values.changed if n in names}), *_foreign(graph)]


def _tensors(program: ExportedProgram) -> dict[Node, tuple[str, Tensor]]:
    """Placeholders that stand for parameters, buffers and constants, with name and value."""
    found = {}
    placeholders = (n for n in program.graph.nodes if n.op == "placeholder")
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            continue
        state: Mapping[str, Any] = program.state_dict if spec.target in program.state_dict else program.constants
        value = state.get(str(spec.target))
        if not isinstance(value, Tensor):
            kind_of = type(value).__name__
            raise PacklightError(f"the network holds {spec.target!r}, a {kind_of}; only tensors can be captured")
        found[node] = (str(spec.target), value)
    return found


def _merge_tied(graph: Graph, tensors: Mapping[Node, tuple[str, Tensor]]) -> None:
    first: dict[int, Node] = {}
    for node, (_, value) in tensors.items():
        kept = first.setdefault(id(value), node)
        if kept is not node:
            node.replace_all_uses_with(kept)


def register(root: nn.Module, name: str, value: Tensor, *, owned: bool = False) -> str:
    """Put a tensor into the root under its name, or one like it where torch's modules need the name themselves; a copy
    unless it is `owned` by nobody else."""
    *path, leaf = [_ODD.sub("_", part) for part in name.split(".")]
    owner, place = root, []
    for part in path:
        part = _free(owner, part, owner._modules)
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
        place.append(part)
    leaf = _free(owner, leaf, {})
    copied = value.detach() if owned else value.detach().clone()
    if isinstance(value, nn.Parameter):
        owner.register_parameter(leaf, nn.Parameter(copied, requires_grad=value.requires_grad))
    else:
        owner.register_buffer(leaf, copied)
    return ".".join([*place, leaf])


def _free(owner: nn.Module, part: str, taken: Mapping[str, Any]) -> str:
    while part not in taken and (hasattr(owner, part) or hasattr(_EMPTY, part) or iskeyword(part)):
        part += "_"
    return part


_EMPTY = GraphModule(nn.Module(), Graph())


def _state_notes(graph: Graph, changed: set[str]) -> list[str]:
    """Tensors of its own that the network changes when called: harmless where nothing reads them, else refused."""
    reached: set[Node] = set()
    pending = [graph.output_node()]
    while pending:
        pending += [n for n in pending.pop().all_input_nodes if n not in reached and not reached.add(n)]  # type: ignore[func-returns-value]
    read = sorted(changed & {str(n.target) for n in reached if n.op == "get_attr"})
    if read:
        raise PacklightError(f"the network changes its own tensor {read[0]!r} when it is called and reads it; "
                             "a Model keeps no state between calls: take it as an input and return it")  # fmt: skip
    return [f"tensor {name!r}, which the network updates and never reads, is left out" for name in sorted(changed)]


def _foreign(graph: Graph) -> list[str]:
    names = sorted({str(n.target) for n in graph.nodes if n.op == "call_function" and not kind(n)})
    return [f"operator {n} is not in packlight's table: such a model runs but cannot be saved" for n in names]

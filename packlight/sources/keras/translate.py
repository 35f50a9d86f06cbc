"""A Keras network as a torch module: its operations in Keras' order, each by the rule of its class.

Keras' tensors have channels last. Here those with spatial axes have them first while layers that want it so read them;
an axis moves only where the network's inputs, or a layer that means the order (a dense layer, a reshape), need it.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.sources.keras.layers import Do

Rule = Callable[["Builder", Any, list["Value"], dict[str, Any]], "Value"]


@dataclass(frozen=True)
class Value:
    """A result. at: its place. rank: of its axes. first: whether channels stand before spatial axes."""

    at: int
    rank: int
    first: bool = False


@dataclass(frozen=True)
class _Step:
    module: str
    reads: tuple[Any, ...]  # Value places as [place], or constants
    writes: int


class Builder:
    """Collects the steps of a module."""

    def __init__(self, owner: nn.Module):
        self.owner, self.steps, self.places = owner, [], 0  # type: ignore[var-annotated]
        self._moved: dict[tuple[int, bool], Value] = {}

    def place(self, rank: int, first: bool = False) -> Value:
        self.places += 1
        return Value(self.places - 1, rank, first)

    def add(
        self, name: str, module: nn.Module | Callable[..., Any], reads: Sequence[Any], rank: int, first: bool = False
    ) -> Value:
        """One more step: a module, or a function, of values and constants; its result."""
        made = self.place(rank, first)
        module = module if isinstance(module, nn.Module) else Do(module)
        given = tuple([r.at] if isinstance(r, Value) else r for r in reads)
        self.steps.append(_Step(self._free(name), given, made.at))
        setattr(self.owner, self.steps[-1].module, module)
        return made

    def spatial(self, value: Value) -> Value:
        """With channels first."""
        return value if value.first or value.rank < 3 else self._move(value, True)

    def plain(self, value: Value) -> Value:
        """With axes as Keras has them."""
        return self._move(value, False) if value.first else value

    def _move(self, value: Value, first: bool) -> Value:
        key = value.at, first
        if key not in self._moved:
            order = (0, value.rank - 1, *range(1, value.rank - 1)) if first else (0, *range(2, value.rank), 1)
            self._moved[key] = self.add("layout", lambda x: x.permute(order), [value], value.rank, first)
        return self._moved[key]

    def _free(self, name: str) -> str:
        name = re.sub(r"\W", "_", name) or "layer"
        name = f"_{name}" if name[0].isdigit() else name
        taken, i = name, 1
        while hasattr(self.owner, taken):
            i += 1
            taken = f"{name}_{i}"
        return taken


class Translated(nn.Module):
    """The torch module of a functional or sequential Keras network; takes its inputs and gives its outputs in order."""

    def __init__(self, network: Any):
        super().__init__()
        builder = Builder(self)
        inputs = [builder.place(len(i.shape)) for i in network.inputs]
        self._inputs = [v.at for v in inputs]
        outputs = translate(builder, network, inputs)
        self._outputs = [builder.plain(v).at for v in outputs]
        self._steps = builder.steps
        self.forward = _named(self._run, [i.name for i in network.inputs])

    def _run(self, *inputs: Tensor) -> Any:
        values: dict[int, Any] = dict(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            reads = [values[r[0]] if isinstance(r, list) else r for r in step.reads]
            values[step.writes] = getattr(self, step.module)(*reads)
        found = tuple(values[at] for at in self._outputs)
        return found if len(found) > 1 else found[0]


def _named(run: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """A function of inputs in order, which tells their names where they can be names of arguments."""
    names = [re.sub(r"\W", "_", name) for name in names]
    fit = len(set(names)) == len(names) and all(n.isidentifier() and not keyword.iskeyword(n) for n in names)

    def forward(*inputs: Tensor) -> Any:
        return run(*inputs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    if fit:
        forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    return forward


def translate(builder: Builder, network: Any, inputs: Sequence[Value]) -> list[Value]:
    """Add the operations of a functional network, or of one inside another; its outputs. Raises PacklightError that
    names all that have no rule."""
    from packlight.sources.keras.rules import rule_of

    graph = network if hasattr(network, "_nodes_by_depth") else network._functional
    nodes = [n for depth in sorted(graph._nodes_by_depth, reverse=True) for n in graph._nodes_by_depth[depth]]
    nodes = [n for n in nodes if not n.is_input]
    missing = Counter(type(n.operation).__name__ for n in nodes if rule_of(n.operation) is None)
    if missing:
        told = ", ".join(f"{name} × {count}" if count > 1 else name for name, count in sorted(missing.items()))
        raise PacklightError(f"no rule for these layers: {told}")
    values = {id(t): v for t, v in zip(graph.inputs, inputs, strict=True)}
    for node in nodes:
        reads = [values[id(t)] for t in node.input_tensors]
        rule = rule_of(node.operation)
        assert rule is not None
        try:
            made = rule(builder, node.operation, reads, _constants(node, values))
        except PacklightError as error:
            raise PacklightError(f"layer {node.operation.name} ({type(node.operation).__name__}): {error}") from error
        results = made if isinstance(made, list) else [made]
        values.update({id(t): v for t, v in zip(node.output_tensors, results, strict=True)})
    return [values[id(t)] for t in graph.outputs]


def _constants(node: Any, values: dict[int, Value]) -> dict[str, Any]:
    """Arguments of a call: positional ones by number, values in place of Keras' tensors."""
    given = {str(i): a for i, a in enumerate(node.arguments.args)} | dict(node.arguments.kwargs)
    return {name: values.get(id(a), a) if hasattr(a, "shape") else a for name, a in given.items()}

"""An ONNX graph → the graph of a Model, node by node in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.dtypes import read_tensor
from packlight.sources.onnx.op import Op, Rule
from packlight.sources.onnx.rules.sizes import SIZE_RULES, as_array, wrapped
from packlight.sources.onnx.trace import Trace
from packlight.sources.onnx.values import Constant, Sizes, Value, is_known

if TYPE_CHECKING:
    import onnx_ir as ir

Rules = Mapping[tuple[str, str], Rule]
_WRONG = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, AssertionError,
          StopIteration)  # fmt: skip


class Translation:
    """rules: (domain, operator) → how it is translated. versions: domain → operator set."""

    def __init__(self, trace: Trace, rules: Rules, versions: Mapping[str, int]):
        self.trace = trace
        self.rules = rules
        self.versions = versions
        self.main: ir.Graph | None = None
        self.known: dict[ir.Value, Any] = {}
        self._left: Counter[ir.Value] = Counter()

    def run(self, graph: ir.Graph, inputs: Sequence[Any]) -> list[Any]:
        """The outputs of a graph for these inputs: Values, Constants or Sizes."""
        self.main = self.main or graph
        for value, given in zip(graph.inputs, inputs, strict=False):
            self.known[value] = given
        for node in graph:
            self._translate(node)
        return [self._read(v) for v in graph.outputs]

    def _translate(self, node: ir.Node) -> None:
        self.trace.name = node.name or next((v.name for v in node.outputs if v.name), "") or node.op_type
        try:
            inputs = [self._read(v) if v is not None else None for v in node.inputs]
            made = self._apply(node, inputs)
        except _WRONG as error:
            raise _failure(node, error) from error
        except PacklightError as error:
            raise type(error)(f"node {self.trace.name!r}: {error}") from error
        results = list(made) if isinstance(made, list | tuple) else [made]
        for value, result in zip(node.outputs, results, strict=False):
            if isinstance(result, Constant) and not result.name:
                result.name = value.name or ""
            if isinstance(result, Value) and value.graph is self.main:
                result.node.meta["onnx"] = value.name
            self.known[value] = result

    def _apply(self, node: ir.Node, inputs: list[Any]) -> Any:
        domain = domain_of(node)
        op = Op(self.trace, node, self.versions.get(domain, 1), self.run)
        sized = [x for x in inputs if isinstance(x, Sizes)]
        if sized and not domain and node.op_type in SIZE_RULES and all(is_known(x) for x in inputs if x is not None):
            made = SIZE_RULES[node.op_type](op, *(None if x is None else as_array(x) for x in inputs))
            return wrapped(made, sized[0].dtype, node.op_type)
        return self.rules[domain, node.op_type](op, *inputs)

    def _read(self, value: ir.Value) -> Any:
        if value not in self.known:
            if value.const_value is None:
                raise PacklightError(f"value {value.name!r} is read and nothing makes it")
            self.known[value] = initializer(value)
            self._left[value] = len(value.uses())
        found = self.known[value]
        if value in self._left:
            self._left[value] -= 1
            if self._left[value] <= 0:  # what is large is in memory once: here, or in the Model
                del self.known[value], self._left[value]
        return found


def initializer(value: ir.Value) -> Constant:
    """A tensor of the file under its name. Floats of more than one element weigh, but for masks, which hold −∞."""
    assert value.const_value is not None
    tensor = read_tensor(value.const_value)
    floats = tensor.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    weighs = floats and tensor.numel() > 1 and float(tensor.amin()) != -torch.inf
    return Constant(tensor, value.name or "", weighs)


def domain_of(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _failure(node: ir.Node, error: Exception) -> PacklightError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    name = node.name or node.outputs[0].name
    return PacklightError(f"node {name!r}: {node.op_type} does not fit its inputs: {first[:300]}")

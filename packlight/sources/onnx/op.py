"""One ONNX node, as the rule that translates it sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.sources.onnx.dtypes import torch_dtype
from packlight.sources.onnx.trace import Trace
from packlight.sources.onnx.values import Constant, Operand, Size, Sizes, Value

if TYPE_CHECKING:
    import onnx_ir as ir

Rule = Callable[..., Any]


class Op:
    """A rule is a function of an Op and of the node's inputs (None where one is left out); it returns the outputs.

    trace: where the graph is written. version: of the operator set that the file uses for this domain.
    run: translates a subgraph (an ir.Graph) for given inputs. graph inputs that are constants come as Constants.
    """

    def __init__(self, trace: Trace, node: ir.Node, version: int, run: Callable[..., list[Any]] | None = None):
        self.trace = trace
        self.node = node
        self.version = version
        self._run = run

    @property
    def kind(self) -> str:
        return self.node.op_type

    @property
    def outputs(self) -> int:
        return len(self.node.outputs)

    def wants(self, output: int) -> bool:
        """Whether somebody reads the output of this number."""
        if output >= len(self.node.outputs):
            return False
        value = self.node.outputs[output]
        return bool(value.uses()) or value.is_graph_output()

    def attribute(self, name: str, default: Any = None) -> Any:
        """A number, text, list, tensor (numpy) or subgraph (ir.Graph)."""
        found = self.node.attributes.get(name)
        if found is None:
            return default
        value: Any = found.value
        if hasattr(value, "numpy"):
            return value
        return list(value) if isinstance(value, tuple) else value

    def dtype(self, name: str, default: torch.dtype | None = None) -> torch.dtype:
        """The torch dtype that an attribute names."""
        given = self.attribute(name)
        if given is None and default is not None:
            return default
        return torch_dtype(int(given or 0))

    def subgraph(self, name: str, *inputs: Any) -> list[Any]:
        """The outputs of a subgraph for these inputs."""
        assert self._run is not None
        return self._run(self.attribute(name), inputs)

    # calling

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """An ATen operator on operands, numbers, Sizes and lists of them."""
        return self.trace.call(target, *args, **kwargs)

    def constant(self, content: Any, dtype: torch.dtype | None = None) -> Constant:
        return Constant(content if isinstance(content, Tensor) else torch.tensor(content, dtype=dtype))

    def cast(self, x: Any, dtype: torch.dtype) -> Any:
        return x if x.dtype == dtype else self.call(torch.ops.aten.to.dtype, x, dtype)

    # what is known

    def shape(self, x: Operand) -> list[Any]:
        """Numbers, and a Size where an axis is dynamic."""
        return self.trace.sizes(x)

    def fixed(self, x: Operand, axis: int) -> int:
        """The size of an axis that must not be dynamic."""
        size = self.shape(x)[axis]
        if isinstance(size, Size):
            raise PacklightError(f"{self.kind} needs a fixed size of axis {axis}; fix it with dynamic={{}}")
        return int(size)

    def numbers(self, x: Any, what: str) -> list[Any] | None:
        """The elements of an input that must be known when the file is read: numbers and Sizes."""
        if x is None:
            return None
        if isinstance(x, Value):
            raise NeedsConstant(f"{self.kind} takes its {what} from a tensor that is computed; "
                                "packlight needs it to be known when the file is read")  # fmt: skip
        flat = x.array.reshape(-1).tolist() if isinstance(x, Sizes) else x.tensor.reshape(-1).tolist()
        return list(flat)

    def number(self, x: Any, what: str, default: Any = None) -> Any:
        """The only element of such an input."""
        found = self.numbers(x, what)
        return found[0] if found else default

    def option(self, name: str, given: Any, default: Any = None) -> Any:
        """What old operator sets hold as an attribute and newer ones as an input: a list of numbers."""
        found = self.attribute(name)
        return found if found is not None else default if given is None else self.numbers(given, name)

    def parameter(self, x: Any) -> Any:
        """A constant that training may change; anything else as it is."""
        if isinstance(x, Constant) and x.dtype.is_floating_point:
            x.weighs = True
        return x

    def statistic(self, x: Any) -> Any:
        """A constant that training does not change by gradients."""
        if isinstance(x, Constant):
            x.weighs = False
        return x


class NeedsConstant(PacklightError):
    """An operator takes from a runtime tensor what must be known when the file is read."""


def axis_of(axis: int, rank: int) -> int:
    """A valid axis, counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise PacklightError(f"axis {axis} of a tensor of {rank} axes")
    return axis % max(rank, 1)


def pairs(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """[b1, b2, …, e1, e2, …] as (b1, e1), (b2, e2), …, the order of ONNX's paddings."""
    half = len(values) // 2
    return list(zip(values[:half], values[half:], strict=True))

"""What flows between ONNX operators while a file is read: runtime tensors, constants, and sizes that are known.

A size is watched at several *points*: choices of sizes for the dynamic dimensions. What is equal at all of them is a
plain number; what is not is a node of the graph, so that the Model works for every size without a word of algebra.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError

if TYPE_CHECKING:
    from packlight.sources.onnx.trace import Trace


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that is computed when the Model is called. metas: on the meta device, one a point."""

    node: Node
    metas: tuple[Tensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.metas[0].dtype

    @property
    def rank(self) -> int:
        return self.metas[0].dim()


@dataclass(eq=False)
class Constant:
    """A tensor that is known when the file is read. name: the file's, "" for one without. weighs: a float that
    training may change."""

    tensor: Tensor
    name: str = ""
    weighs: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def rank(self) -> int:
        return self.tensor.dim()


class Size:
    """A number that follows from the input sizes. node: computes it; values: what it is, one a point."""

    def __init__(self, trace: Trace, node: Node, values: tuple[int | float, ...]):
        self.trace = trace
        self.node = node
        self.values = values

    def __add__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.mul, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.floordiv, other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.truediv, other, self)

    def __mod__(self, other: Any) -> Any:
        return self.trace.arithmetic(operator.mod, self, other)

    def __neg__(self) -> Any:
        return self.trace.arithmetic(operator.mul, self, -1)

    def __eq__(self, other: object) -> bool:
        return self._agreed(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._agreed(operator.ne, other)

    def __lt__(self, other: Any) -> bool:
        return self._agreed(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._agreed(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._agreed(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._agreed(operator.ge, other)

    __hash__ = object.__hash__

    def _agreed(self, compare: Callable[[Any, Any], bool], other: Any) -> bool:
        """The answer, where it is the same at every point."""
        others = other.values if isinstance(other, Size) else (other,) * len(self.values)
        answers = {bool(compare(a, b)) for a, b in zip(self.values, others, strict=True)}
        if len(answers) > 1:
            raise SizeDecides("a branch of the network depends on the size of a dynamic dimension")
        return answers.pop()


class SizeDecides(PacklightError):
    """What the network computes is not the same at all sizes of a dynamic dimension."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """An integer tensor some of whose elements are a Size. array: numpy, of objects. dtype: the ONNX tensor's."""

    array: Any
    dtype: torch.dtype = torch.int64

    @property
    def rank(self) -> int:
        return int(self.array.ndim)


Operand = Any  # a Value, a Constant or Sizes; a rule asks which where that matters


def known(array: Any, dtype: torch.dtype = torch.int64) -> Constant | Sizes:
    """An array of numbers and Sizes as a constant where it has no Size."""
    array = np.asarray(array, dtype=object)
    if any(isinstance(v, Size) for v in array.flat):
        return Sizes(array, dtype)
    return Constant(torch.tensor(array.tolist(), dtype=dtype).reshape(array.shape))


def is_known(x: Any) -> bool:
    """Whether a value is known when the file is read, but for dynamic sizes."""
    return isinstance(x, Constant | Sizes)

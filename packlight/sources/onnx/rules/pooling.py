"""Pooling."""

from __future__ import annotations

import math
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.op import Op, Rule, pairs
from packlight.sources.onnx.rules.convolution import evenly_padded, paddings
from packlight.sources.onnx.values import Operand, Size

aten = torch.ops.aten
_MAX = {1: aten.max_pool1d.default, 2: aten.max_pool2d.default, 3: aten.max_pool3d.default}
_WITH_PLACES = {2: aten.max_pool2d_with_indices.default, 3: aten.max_pool3d_with_indices.default}
_MEAN = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}


class Window:
    """What the pooling operators share. amounts: (before, after) a spatial axis."""

    def __init__(self, op: Op, x: Operand):
        self.kernel: list[int] = op.attribute("kernel_shape")
        n = len(self.kernel)
        if n not in _MAX:
            raise PacklightError(f"{op.kind} over {n} axes; packlight takes 1 to 3")
        self.strides = op.attribute("strides") or [1] * n
        self.dilations = op.attribute("dilations") or [1] * n
        self.ceil = bool(op.attribute("ceil_mode", 0))
        self.amounts = paddings(op, x, self.kernel, self.strides, self.dilations)
        self.half = [k // 2 for k in self.kernel]

    def overhang(self, op: Op, x: Operand) -> list[int]:
        """How far the last window that starts inside reaches past the padded end, where sizes round up."""
        if not self.ceil:
            return [0] * len(self.kernel)
        found = []
        for i, k in enumerate(self.kernel):
            size = op.fixed(x, 2 + i) + sum(self.amounts[i])
            reach = self.dilations[i] * (k - 1) + 1
            windows = -(-(size - reach) // self.strides[i]) + 1
            if (windows - 1) * self.strides[i] >= size - self.amounts[i][1]:
                windows -= 1
            found.append(max((windows - 1) * self.strides[i] + reach - size, 0))
        return found


def max_pool(op: Op, x: Operand) -> Any:
    if not x.dtype.is_floating_point:
        made = max_pool(op, op.cast(x, torch.float32))
        first, *places = made if isinstance(made, tuple) else (made,)
        return (op.cast(first, x.dtype), *places)
    window = Window(op, x)
    fill = -math.inf
    if op.wants(1):
        return _with_places(op, x, window)
    plain = all(b == e and b <= h for (b, e), h in zip(window.amounts, window.half, strict=True))
    if window.ceil and not plain:
        past = window.overhang(op, x)
        window.amounts = [(b, e + p) for (b, e), p in zip(window.amounts, past, strict=True)]
        window.ceil = False
    x, padding = evenly_padded(op, x, window.amounts, fill, window.half)
    n = len(window.kernel)
    return op.call(_MAX[n], x, window.kernel, window.strides, padding, window.dilations, window.ceil)


def _with_places(op: Op, x: Operand, window: Window) -> Any:
    """ONNX numbers the elements of the whole tensor, torch those of one image."""
    n = len(window.kernel)
    past = window.overhang(op, x)
    if (
        any(b != e for b, e in window.amounts)
        or any(past)
        or any(b > h for (b, _), h in zip(window.amounts, window.half, strict=True))
    ):
        raise PacklightError("MaxPool that gives places and pads unevenly; packlight takes even padding")
    flat = x if n > 1 else op.call(aten.unsqueeze.default, x, 2)
    lists = [window.kernel, window.strides, [b for b, _ in window.amounts], window.dilations]
    lists = lists if n > 1 else [[fill, *row] for row, fill in zip(lists, (1, 1, 0, 1), strict=True)]
    made, places = op.call(_WITH_PLACES[max(n, 2)], flat, *lists, window.ceil)
    sizes = op.shape(x)
    if n > 1 and op.attribute("storage_order", 0):
        places = _column_major(op, places, sizes[2:])
    image = math.prod(sizes[2:])
    count = op.call(aten.arange.default, sizes[0] * sizes[1], dtype=torch.int64, device=torch.device("cpu"))
    base = op.call(aten.reshape.default, op.call(aten.mul.Tensor, count, image), [sizes[0], sizes[1], *[1] * max(n, 2)])
    places = op.call(aten.add.Tensor, places, base)
    if n == 1:
        made, places = (op.call(aten.squeeze.dims, t, [2]) for t in (made, places))
    return made, places


def _column_major(op: Op, places: Any, sizes: list[Any]) -> Any:
    if len(sizes) != 2:
        raise PacklightError("MaxPool that counts places by columns; packlight takes two axes")
    height, width = sizes
    row = op.call(aten.div.Tensor_mode, places, width, rounding_mode="floor")
    column = op.call(aten.remainder.Scalar, places, width)
    return op.call(aten.add.Tensor, op.call(aten.mul.Tensor, column, height), row)


def average_pool(op: Op, x: Operand) -> Any:
    """torch's own where it has the same form; else sums over counts of what lies inside."""
    window = Window(op, x)
    n = len(window.kernel)
    counts = bool(op.attribute("count_include_pad", 0))
    plain = all(b == e and 0 <= b <= h for (b, e), h in zip(window.amounts, window.half, strict=True))
    if plain and not any(d != 1 for d in window.dilations):
        padding = [b for b, _ in window.amounts]
        return op.call(_MEAN[n], x, window.kernel, window.strides, padding, window.ceil, counts)
    ones = op.call(aten.ones_like.default, x)
    past = window.overhang(op, x)
    inside = ones
    if counts:
        inside = op.call(aten.constant_pad_nd.default, ones, _flat(window.amounts), 1.0)
    inner = [(0, p) if counts else (b, e + p) for (b, e), p in zip(window.amounts, past, strict=True)]
    total = _sums(op, x, window, [(b, e + p) for (b, e), p in zip(window.amounts, past, strict=True)])
    return op.call(aten.div.Tensor, total, _sums(op, inside, window, inner))


def _flat(amounts: list[tuple[int, int]]) -> list[int]:
    return [p for pair in reversed(amounts) for p in pair]


def _sums(op: Op, x: Operand, window: Window, amounts: list[tuple[int, int]]) -> Any:
    """The sum of every window: taps of the kernel as slices, added up."""
    x = op.call(aten.constant_pad_nd.default, x, _flat(amounts), 0.0)
    n, total = len(window.kernel), None
    sizes = [op.fixed(x, 2 + i) for i in range(n)]
    reach = [d * (k - 1) for k, d in zip(window.kernel, window.dilations, strict=True)]
    for tap in range(math.prod(window.kernel)):
        part = x
        for axis in reversed(range(n)):
            tap, step = divmod(tap, window.kernel[axis])
            start = step * window.dilations[axis]
            end = start + sizes[axis] - reach[axis]
            part = op.call(aten.slice.Tensor, part, 2 + axis, start, end, window.strides[axis])
        total = part if total is None else op.call(aten.add.Tensor, total, part)
    return total


def lp_pool(op: Op, x: Operand) -> Any:
    """(Σ |x|^p)^(1/p) over every window."""
    window, p = Window(op, x), op.attribute("p", 2)
    past = window.overhang(op, x)
    powers = op.call(aten.pow.Tensor_Scalar, op.call(aten.abs.default, x), p)
    total = _sums(op, powers, window, [(b, e + q) for (b, e), q in zip(window.amounts, past, strict=True)])
    return op.call(aten.pow.Tensor_Scalar, total, 1.0 / p)


def global_average(op: Op, x: Operand) -> Any:
    return op.call(aten.mean.dim, x, list(range(2, x.rank)), True)


def global_max(op: Op, x: Operand) -> Any:
    return op.call(aten.amax.default, x, list(range(2, x.rank)), True)


def global_lp(op: Op, x: Operand) -> Any:
    return op.call(aten.linalg_vector_norm.default, x, op.attribute("p", 2), list(range(2, x.rank)), True)


def max_unpool(op: Op, x: Operand, places: Operand, shape: Any = None) -> Any:
    """Puts every value back where it was the largest."""
    kernel, n = op.attribute("kernel_shape"), len(op.attribute("kernel_shape"))
    strides = op.attribute("strides") or [1] * n
    amounts = pairs(op.attribute("pads") or [0] * (2 * n))
    own = op.shape(x)
    natural = [(s - 1) * t - b - e + k for s, t, (b, e), k in zip(own[2:], strides, amounts, kernel, strict=True)]
    whole = [*own[:2], *natural]
    wanted = op.numbers(shape, "output_shape") or whole
    if any(isinstance(s, Size) for s in wanted):
        raise PacklightError("MaxUnpool of a dynamic size; fix that size")
    zeros = op.call(aten.new_zeros.default, x, [math.prod(wanted)])
    flat = op.call(aten.reshape.default, x, [-1])
    indices = op.call(aten.reshape.default, places, [-1])
    if wanted != whole:
        indices = _moved(op, indices, whole, wanted)
    made = op.call(aten.scatter.src, zeros, 0, indices, flat)
    return op.call(aten.reshape.default, made, wanted)


def _moved(op: Op, indices: Any, whole: list[int], wanted: list[int]) -> Any:
    """Places counted in a tensor of one shape, counted in a larger one."""
    moved, below, above = None, 1, 1
    for own, new in zip(reversed(whole), reversed(wanted), strict=True):
        whole_below = op.call(aten.div.Tensor_mode, indices, below, rounding_mode="floor")
        place = op.call(aten.remainder.Scalar, whole_below, own)
        part = op.call(aten.mul.Tensor, place, above)
        moved = part if moved is None else op.call(aten.add.Tensor, moved, part)
        below, above = below * own, above * new
    return moved


RULES: dict[str, Rule] = {
    "MaxPool": max_pool, "AveragePool": average_pool, "LpPool": lp_pool, "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max, "GlobalLpPool": global_lp, "MaxUnpool": max_unpool,
}  # fmt: skip

"""Does an integer kernel leave the integers that it sums in?

Processors without VNNI multiply uint8 by int8 and add two products at a time in int16 (pmaddubsw), which saturates:
twice 255 · 127 is 64,770. What can happen follows from the weights and the activation's range; what does happen, from
data. Weights of 7 bits (−64..63) cannot saturate: 255 · (−64 − 64) = −32,640. Pairs are neighbours in the order in
which kernels sum: (height, width, channel) of a convolution. Depthwise convolutions multiply in 16 bits and have no
pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.nn.functional import pad, unfold

from packlight.model import Model
from packlight.model.operators import argument, load_quantized_operators, packet
from packlight.passes.quantize.blocks import Batch, Walker, is_weight

LOWEST, HIGHEST = -(2**15), 2**15 - 1
LARGEST_SUM = 2**31 - 1
_AT_ONCE = 1 << 23  # pair sums held in memory


@dataclass(frozen=True)
class Sums:
    """The sums of one kernel. pair: the largest magnitude that a sum of two products can have. seen: the largest on
    data, None where the bound is safe or no data was given. saturated: share of the pair sums on data that leave
    int16. total: the largest magnitude that the whole sum with its bias can have."""

    layer: str
    pair: int
    seen: int | None
    saturated: float
    total: int

    @property
    def safe(self) -> bool:
        """Whether no pair of products can leave int16, whatever the input."""
        return self.pair <= HIGHEST

    @property
    def fits(self) -> bool:
        """Whether the whole sum cannot leave int32."""
        return self.total <= LARGEST_SUM


@torch.no_grad()
def sums(model: Model, batches: Sequence[Batch] = ()) -> list[Sums]:
    """Every integer kernel with weights of a quantized Model, in graph order. batches: inputs of one size, to see what
    happens where something can."""
    load_quantized_operators()
    model = model.copy().eval()
    walker = _walker(model, batches) if batches else None
    found = []
    for node in integer_kernels(model):
        weight, activation = _weight(model, node), _Activation.of(node)
        pair, total = bounds(weight, activation.low, activation.high)
        total += _bias(model, node)
        seen: int | None = None
        out = of = 0
        if pair > HIGHEST and walker is not None:
            walker.advance(activation.node)
            for values, zero in zip(walker.values(activation.node), activation.zeros(walker), strict=True):
                for part in _pairs(_columns(node, _shape(model, node), values, zero), weight):
                    seen = max(seen or 0, int(part.abs().max()))
                    out, of = out + int(((part < LOWEST) | (part > HIGHEST)).sum()), of + part.numel()
            walker.forget()
        found.append(Sums(model.layer(node), pair, seen, out / max(of, 1), total))
    return found


def _walker(model: Model, batches: Sequence[Batch]) -> Walker:
    """One that remembers what a kernel reads until the kernel's turn: a shortcut's integers are made long before."""
    walker = Walker(model, batches)
    for kernel in integer_kernels(model):
        activation = _Activation.of(kernel)
        for node in (activation.node, activation.zero):
            if isinstance(node, Node):
                walker.last[node] = max(walker.last[node], walker.place[kernel])
    return walker


def bounds(weight: Tensor, low: int, high: int) -> tuple[int, int]:
    """Largest magnitudes of a pair sum and of a whole sum. weight: integers [groups, outputs, inputs]. low, high: of
    the activation's integers. With one input there are no pairs."""
    weight = weight.long()
    ends = torch.stack([weight * low, weight * high])
    most, least = ends.amax(0), ends.amin(0)
    total = int(torch.maximum(most.sum(-1), -least.sum(-1)).max())
    if weight.shape[-1] == 1 or _is_depthwise(weight):
        return 0, total
    up, down = _paired(most).sum(-1), _paired(least).sum(-1)
    return int(torch.maximum(up, -down - 1).max()), total  # int16 has one more below zero


def integer_kernels(model: Model) -> Iterator[Node]:
    """The linear layers and convolutions that read integers and have integer weights."""
    for node in model.nodes:
        if packet(node) in ("linear", "conv1d", "conv2d"):
            data, weight = node.args[0], node.args[1]
            reads = isinstance(data, Node) and packet(data) == "dequantize_per_tensor"
            if reads and isinstance(weight, Node) and is_weight(weight):
                yield node


class Saturating(Interpreter):
    """Runs a quantized Model as a processor without VNNI would: sums of two products saturate in int16."""

    def __init__(self, model: Model):
        load_quantized_operators()
        self.model = model.copy().eval()
        self.kernels = set(integer_kernels(self.model))
        super().__init__(self.model.graph_module, garbage_collect_values=False)

    def run_node(self, n: Node) -> Any:
        """A kernel's result with what saturation takes from it."""
        made = super().run_node(n)
        if n not in self.kernels:
            return made
        weight, activation = _weight(self.model, n), _Activation.of(n)
        if bounds(weight, activation.low, activation.high)[0] <= HIGHEST:
            return made
        zero = int(self.env[activation.zero]) if isinstance(activation.zero, Node) else activation.zero
        columns = _columns(n, _shape(self.model, n), self.env[activation.node], zero)
        lost = torch.cat([(p.clamp(LOWEST, HIGHEST) - p).sum(-1) for p in _pairs(columns, weight)])
        return made + _as_output(lost.flatten(1) * self._unit(n), made, packet(n))

    def _unit(self, n: Node) -> Tensor:
        """What one step of the sum is worth [outputs] or [1]."""
        weight: Any = n.args[1]
        data: Any = n.args[0]
        scale = self.env[data.args[1]] if isinstance(data.args[1], Node) else data.args[1]
        return torch.as_tensor(self.env[weight.args[1]]).float().reshape(-1) * scale


@dataclass(frozen=True)
class _Activation:
    """Integers that a kernel reads. node: their node. zero: the zero point, or the node that gives it."""

    node: Node
    zero: Any
    low: int
    high: int

    @staticmethod
    def of(kernel: Node) -> _Activation:
        data: Any = kernel.args[0]
        integers, _, zero, low, high = data.args[:5]
        return _Activation(integers, zero, low, high)

    def zeros(self, walker: Walker) -> list[int]:
        """The zero point for each batch."""
        if isinstance(self.zero, Node):
            return [int(z) for z in walker.values(self.zero)]
        return [int(self.zero)] * len(walker.runs)


def _weight(model: Model, kernel: Node) -> Tensor:
    """A kernel's integers int64 [groups, outputs a group, inputs a sum], in the order of summation."""
    dequantize: Any = kernel.args[1]
    source = dequantize.args[0]
    if source.op == "get_attr":
        integers = model.tensor(source)
    else:
        settings = [model.tensor(a) if isinstance(a, Node) else a for a in source.args[1:]]
        integers = source.target(model.tensor(source.args[0]).detach(), *settings)
    integers = integers.long()
    if packet(kernel) == "linear":
        return integers[None]
    groups = int(argument(kernel, "groups"))
    ordered = integers.flatten(2).transpose(1, 2).flatten(1)  # outputs, then (height, width, channel)
    return ordered.reshape(groups, len(integers) // groups, -1)


def _shape(model: Model, kernel: Node) -> Sequence[int]:
    dequantize: Any = kernel.args[1]
    source = dequantize.args[0]
    return model.tensor(source if source.op == "get_attr" else source.args[0]).shape


def _bias(model: Model, kernel: Node) -> int:
    """The largest magnitude of a kernel's bias in steps of its sum; 0 where it is added in float."""
    data, weight = kernel.args[0], kernel.args[1]
    bias = kernel.args[2] if len(kernel.args) > 2 else None
    scale = data.args[1]  # type: ignore[union-attr]
    if not isinstance(bias, Node) or isinstance(scale, Node):
        return 0
    unit = model.tensor(weight.args[1]).double() * float(scale)  # type: ignore[union-attr, arg-type]
    return math.ceil(float((model.tensor(bias).double() / unit).abs().max()))


def _is_depthwise(weight: Tensor) -> bool:
    """Whether each group makes one output."""
    return weight.shape[0] > 1 and weight.shape[1] == 1


def _columns(kernel: Node, shape: Sequence[int], values: Tensor, zero: int) -> Tensor:
    """The integers that a kernel multiplies with, float32 [rows, groups, inputs a sum]. shape: of its weight."""
    values = values.float()
    if packet(kernel) == "linear":
        return values.reshape(-1, 1, values.shape[-1])
    flat = packet(kernel) == "conv1d"
    neutral = {"stride": 1, "padding": 0, "dilation": 1}
    settings = {k: _two(argument(kernel, k), n, flat) for k, n in neutral.items()}
    size = list(shape[2:])
    values = values.unsqueeze(2) if flat else values
    size = [1, *size] if flat else size
    high, wide = settings.pop("padding")
    groups = int(argument(kernel, "groups"))
    taken = unfold(pad(values, (wide, wide, high, high), value=float(zero)), size, **settings)  # type: ignore[arg-type]
    batch, _, places = taken.shape
    each = taken.reshape(batch, groups, -1, math.prod(size), places)  # images, groups, channels, positions, places
    return each.permute(0, 4, 1, 3, 2).reshape(batch * places, groups, -1)


def _two(value: Any, neutral: int, flat: bool) -> tuple[int, int]:
    """A setting along both axes of an image; one of a series is an image one high."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return neutral if flat else int(values[0]), int(values[-1])


def _paired(terms: Tensor) -> Tensor:
    """[…, terms] → […, pairs, 2]; an odd one is alone."""
    even = pad(terms, (0, terms.shape[-1] % 2))
    return even.reshape(*even.shape[:-1], -1, 2)


def _pairs(columns: Tensor, weight: Tensor) -> Iterator[Tensor]:
    """Sums of two products [rows, groups, outputs, pairs], some rows at a time."""
    ours = _paired(weight.float())  # groups, outputs, pairs, 2: all products and sums are exact in float32
    step = max(1, _AT_ONCE // max(1, ours.numel() // 2))
    for start in range(0, len(columns), step):
        theirs = _paired(columns[start : start + step])
        first = theirs[:, :, None, :, 0] * ours[None, ..., 0]
        yield first.addcmul_(theirs[:, :, None, :, 1], ours[None, ..., 1])


def _as_output(flat: Tensor, like: Tensor, operator: str) -> Tensor:
    """Rows of outputs in the shape of a kernel's result."""
    if operator == "linear":
        return flat.reshape(like.shape)
    places = math.prod(like.shape[2:])
    return flat.reshape(len(like), places, -1).transpose(1, 2).reshape(like.shape)

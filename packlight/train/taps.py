"""A second graph over a Model's own tensors, for training it: layers' outputs laid open, quantizers with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from packlight.errors import PacklightError
from packlight.model import Model, matching
from packlight.model.floats import narrow, narrowed
from packlight.model.operators import argument, load_quantized_operators, packet


class Tapped:
    """Calls a Model; gives its flat outputs, and by name those of the layers asked for. Tensors are the Model's own."""

    def __init__(self, model: Model, layers: Sequence[str] = ()):
        self.model = _trainable(model)
        self.layers = tuple(layers)
        self.outputs = len(model.outputs)
        graph = self.model.graph_module.graph
        known = self.model.layers()
        for layer in self.layers:
            if layer not in known:
                matching(list(known), (layer,))  # says what is near
                raise PacklightError(f"{layer!r} stands for several layers; name one")
        (end,) = (n for n in graph.nodes if n.op == "output")
        given: Any = end.args[0]
        end.args = ((*given, *(known[layer] for layer in self.layers)),)
        self.model.graph_module.recompile()

    def train(self, mode: bool = True) -> None:
        if self.model.training != mode:
            self.model.train(mode)

    def __call__(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], Mapping[str, Tensor]]:
        found = self.model.graph_module(*inputs)
        return tuple(found[: self.outputs]), dict(zip(self.layers, found[self.outputs :], strict=True))


class StraightThrough(torch.autograd.Function):
    """Quantize and dequantize, bit for bit as the graph's own operators do; the gradient passes where the value was in
    range. In few passes over the values, most of them in place: training is bound by memory here.

    Bengio, Léonard, Courville 2013 (arXiv 1308.3432), section 4, with the clipping of Jacob et al. 2018 (arXiv
    1712.05877), section 3. A scale that is a parameter gets the gradient of Esser et al. 2019 (arXiv 1902.08153),
    sections 2.1 and 2.2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Any, zero: Any, axis: int | None, low: int, high: int) -> Tensor:
        ctx.learned = isinstance(scale, Tensor) and scale.requires_grad
        if ctx.learned:
            ctx.shape, ctx.features, ctx.high = scale.shape, _features(x, scale, axis), max(1, high)
        scale, zero = _across(x, scale, axis), _across(x, zero, axis)
        q = (x.float() * (1.0 / scale)).round_().clamp_(low - zero, high - zero)
        ctx.save_for_backward(x, q if ctx.learned else None)
        ctx.scale, ctx.ends = scale, ((low - 0.5 - zero) * scale, (high + 0.5 - zero) * scale)
        return (q * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, q = ctx.saved_tensors
        (gradient,), (low, high) = gradients, ctx.ends
        if isinstance(low, Tensor):
            passed = gradient * ((x > low) & (x < high))
        else:
            passed = torch.ops.aten.hardtanh_backward(gradient, x, low, high)
        if not ctx.learned:
            return passed, None, None, None, None, None
        count, axes = ctx.features
        rounded, given = _sums(gradient, q, axes), _sums(passed, x, axes)  # where it is clipped, the end alone counts
        learned = rounded.reshape(ctx.shape) - given.reshape(ctx.shape) / _flat(ctx.scale, ctx.shape)
        return passed, learned / (count * ctx.high) ** 0.5, None, None, None, None


class RoundFloat(torch.autograd.Function):
    """The nearest values of a low float type, in float32; the gradient passes where the value was in range, which ends
    half a step above the type's largest value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x)
        ctx.end = torch.finfo(dtype).max * (1 + torch.finfo(dtype).eps / 4)
        return narrow(x, dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        return gradient * (x.abs() <= ctx.end), None


def round_float(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The call that stands in the graph in training."""
    result: Tensor = RoundFloat.apply(x, dtype)  # type: ignore[no-untyped-call]
    return result


def _across(x: Tensor, value: Any, axis: int | None) -> Any:
    """A scale or zero point: a number, or of x's rank where it has one a channel."""
    if not isinstance(value, Tensor):
        return value
    if axis is None:
        return value.item()
    return value.reshape([-1 if a == axis else 1 for a in range(x.dim())])


def _features(x: Tensor, scale: Tensor, axis: int | None) -> tuple[float, list[int]]:
    """How many elements share a scale, of an activation in one sample; and the axes along which they do."""
    if axis is None:
        return x.numel() / len(x), []
    return x.numel() / scale.numel(), [a for a in range(x.dim()) if a != axis]


def _sums(a: Tensor, b: Tensor, axes: list[int]) -> Tensor:
    """The sums of products along axes; of none: of all."""
    return (a * b).sum(axes) if axes else torch.dot(a.reshape(-1).to(b.dtype), b.reshape(-1))


def _flat(scale: Any, shape: Any) -> Any:
    return scale.reshape(shape) if isinstance(scale, Tensor) else scale


def straight_through(x: Tensor, scale: Any, zero: Any, low: int, high: int, axis: int | None = None) -> Tensor:
    """The call that stands in the graph in training. axis: along which scales and zero points lie; None: one of each.
    Of scales, parameters alone learn: one taken of the value at run time is as given."""
    if isinstance(scale, Tensor) and not isinstance(scale, nn.Parameter):
        scale = scale.detach()
    axis = None if axis is None else axis % x.dim()
    result: Tensor = StraightThrough.apply(x, scale, zero, axis, low, high)  # type: ignore[no-untyped-call]
    return result


def _trainable(model: Model) -> Model:
    """The Model's graph again over the same tensors, each quantize/dequantize pair one call with a gradient."""
    twin = model.copy(share_tensors=True)
    graph = twin.graph_module.graph
    found = _round_floats(twin)
    for node in twin.nodes:
        source = node.args[0] if node.args else None
        if packet(node).startswith("dequantize_per_") and isinstance(source, Node):
            if not packet(source).startswith("quantize_per_"):
                continue  # a weight stored as integers: no master to train
            load_quantized_operators()
            low, high = argument(node, "quant_min"), argument(node, "quant_max")
            x, scale, zero = source.args[:3]
            with graph.inserting_before(node):
                if packet(node).endswith("_group"):
                    call = _through_blocks(graph, (x, scale, zero, low, high), argument(node, "group_size"))
                else:
                    axis = argument(node, "axis") if packet(node).endswith("_channel") else None
                    call = graph.call_function(straight_through, (x, scale, zero, low, high, axis))
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
            graph.erase_node(node)
            if not source.users:
                graph.erase_node(source)
            found = True
    if found:
        twin.graph_module.recompile()
    return twin


def _round_floats(model: Model) -> bool:
    """Clamp and casts of weights in low float types → one call each, in place; whether there were any."""
    graph = model.graph_module.graph
    masters = [how for how in narrowed(model).values() if how.value is not None]
    for how in masters:
        with graph.inserting_before(how.wide):
            call = graph.call_function(round_float, (how.value, how.dtype))
        call.meta = dict(how.wide.meta)
        how.wide.replace_all_uses_with(call)
        for node in reversed(how.nodes[-3:]):
            graph.erase_node(node)
    return bool(masters)


def _through_blocks(graph: Graph, given: tuple[Any, ...], block: int) -> Node:
    """The call for a weight with a scale a block: every block is a channel of its own."""
    aten, (weight, *rest) = torch.ops.aten, given
    rows = graph.call_function(aten.reshape.default, (weight, [-1, block]))
    made = graph.call_function(straight_through, (rows, *rest, 0))
    return graph.call_function(aten.view_as.default, (made, weight))

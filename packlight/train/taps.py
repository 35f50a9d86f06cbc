"""A second graph over a Model's own tensors, for training it: layers' outputs laid open, quantizers with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from packlight.errors import PacklightError
from packlight.model import Model, matching
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
    """Quantize and dequantize as the graph's own operators do; the gradient passes where the value was in range.

    Bengio, Léonard, Courville 2013 (arXiv 1308.3432), section 4, with the clipping of Jacob et al. 2018 (arXiv
    1712.05877), section 3. A scale that is a parameter gets the gradient of Esser et al. 2019 (arXiv 1902.08153),
    sections 2.1 and 2.2.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Any, quantize: Any, dequantize: Any, low: int, high: int, settings: Any
    ) -> Tensor:
        q = quantize(x.float(), scale, *settings)
        steps, zero = _steps(x, scale, settings)
        ctx.shape = None
        if isinstance(scale, Tensor) and scale.requires_grad:
            ctx.shape, ctx.features, ctx.high = scale.shape, _features(x, scale, settings), max(1, high)
            ctx.save_for_backward(_inside(steps, low, high), q.to(x.dtype) - zero, steps - zero)
        else:
            ctx.save_for_backward(_inside(steps, low, high))
        return dequantize(q, scale, *settings).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        inside, *exact = ctx.saved_tensors
        passed = gradients[0] * inside
        if ctx.shape is None:
            return passed, None, None, None, None, None, None
        rounded, steps = exact
        each = gradients[0] * (rounded - torch.where(inside, steps, 0.0))
        count, axes = ctx.features
        learned = (each.sum(axes) if axes else each).reshape(ctx.shape)
        return passed, learned / (count * ctx.high) ** 0.5, None, None, None, None, None


def _steps(x: Tensor, scale: Any, settings: Any) -> tuple[Tensor, Any]:
    """x in units of its scale, counted from the lowest integers' zero; and the zero points, of x's rank."""
    zero = settings[0]
    if isinstance(scale, Tensor):
        axes = _axes(x, scale, settings)
        scale, zero = scale.reshape(axes), zero.reshape(axes)
    return x / scale + zero, zero


def _axes(x: Tensor, scale: Tensor, settings: Any) -> list[int]:
    """The shape of x's rank that scales have."""
    axes = [1] * x.dim()
    if scale.numel() > 1:
        axes[settings[1]] = -1
    return axes


def _features(x: Tensor, scale: Tensor, settings: Any) -> tuple[float, list[int]]:
    """How many elements share a scale, of an activation in one sample; and the axes along which they do."""
    if scale.dim():
        axis = settings[1] % x.dim()
        return x.numel() / scale.numel(), [a for a in range(x.dim()) if a != axis]
    return x.numel() / len(x), list(range(x.dim()))


def _inside(steps: Tensor, low: int, high: int) -> Tensor:
    """Which values are not clipped: up to half a step beyond the ends is rounding."""
    return (steps >= low - 0.5) & (steps <= high + 0.5)


def straight_through(
    x: Tensor, quantize: Any, dequantize: Any, low: int, high: int, scale: Any, *settings: Any
) -> Tensor:
    """The call that stands in the graph in training. Of scales, parameters alone learn: one taken of the value at run
    time is as given."""
    if isinstance(scale, Tensor) and not isinstance(scale, nn.Parameter):
        scale = scale.detach()
    result: Tensor = StraightThrough.apply(x, scale, quantize, dequantize, low, high, settings)  # type: ignore[no-untyped-call]
    return result


def _trainable(model: Model) -> Model:
    """The Model's graph again over the same tensors, each quantize/dequantize pair one call with a gradient."""
    twin = model.copy(share_tensors=True)
    graph = twin.graph_module.graph
    found = False
    for node in twin.nodes:
        source = node.args[0] if node.args else None
        if packet(node).startswith("dequantize_per_") and isinstance(source, Node):
            if not packet(source).startswith("quantize_per_"):
                continue  # a weight stored as integers: no master to train
            load_quantized_operators()
            low, high = argument(node, "quant_min"), argument(node, "quant_max")
            with graph.inserting_before(node):
                if packet(node).endswith("_group"):
                    call = _through_blocks(graph, source, low, high)
                else:
                    operators: Any = (source.target, node.target)
                    given = (source.args[0], *operators, low, high, *source.args[1:])
                    call = graph.call_function(straight_through, given)
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
            graph.erase_node(node)
            if not source.users:
                graph.erase_node(source)
            found = True
    if found:
        twin.graph_module.recompile()
    return twin


def _through_blocks(graph: Graph, quantize: Node, low: int, high: int) -> Node:
    """The call for a weight with a scale a block: every block is a channel of its own."""
    ops, aten = torch.ops.quantized_decomposed, torch.ops.aten
    weight, scales, zeros, *_, dtype, group = quantize.args
    rows = graph.call_function(aten.reshape.default, (weight, [-1, group]))
    operators = ops.quantize_per_channel.default, ops.dequantize_per_channel.default
    settings = (scales, zeros, 0, low, high, dtype)
    made = graph.call_function(straight_through, (rows, *operators, low, high, *settings))
    return graph.call_function(aten.view_as.default, (made, weight))

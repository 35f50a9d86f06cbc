"""Moves what is hard to quantize from activations to weights.

SmoothQuant (Xiao et al. 2022, arXiv 2211.10438, section 4): in transformers a few channels of what a linear layer reads
are ten to a hundred times as large as the rest, and a single scale leaves the rest with a few steps. Channel j of the
input is divided by

    s_j = max|X_j|^a / max|W_j|^(1 − a)

and column j of every weight that reads it multiplied by it, so the network computes the same. A layer norm that nothing
else reads divides for free, in its own weight and bias; elsewhere one multiplication stands before the layers.
We deviate in one point: the scales of a group have the geometric mean 1, because only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model, Step, matching
from packlight.model.lineage import options_of
from packlight.model.operators import packet
from packlight.passes.batches import batches_of
from packlight.passes.watch import Watch
from packlight.task import Task

_BATCH = 32
_LEAST = 1e-5


@dataclass(frozen=True)
class Smoothing:
    """Options of the pass.

    strength: a in [0, 1], the share of the difference between channels that goes to the weights; the paper takes 0.5,
    which raised the error of the sentence encoder, where 0.8 lowered it most. samples: >= 1,
    calibration samples to run. free: only where a layer norm takes the scales in, so that nothing is added to the
    network. exclude: layer-name patterns (shell wildcards) that are left as they are.
    """

    strength: float = 0.8
    samples: int = 64
    free: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise PacklightError(f"smoothing takes a strength from 0 to 1, got {self.strength}")
        if self.samples < 1:
            raise PacklightError(f"smoothing needs samples >= 1, got {self.samples}")


def smooth(
    model: Model, task: Task, options: Smoothing = Smoothing(), *, on_batch: Callable[[], None] = lambda: None
) -> Model:
    """A copy, in eval mode, that computes the same to rounding, with even channels in front of its linear layers.

    Looks at the task's calibration data. Raises PacklightError where the Model is quantized already: a scale that is
    set belongs to the values as they were.
    """
    if model.is_quantized:
        raise PacklightError(f"{model.name} is quantized already; smooth its float version")
    model = model.copy().eval()
    groups = {
        x: layers for x, layers in _groups(model, options.exclude).items() if not options.free or _norm(x, layers)
    }
    largest = _largest(
        model, list(groups), batches_of(model, task.data("calibration"), options.samples, _BATCH), on_batch
    )
    for x, layers in groups.items():
        columns = torch.stack([model.tensor(_weight(n)).detach().abs().amax(0) for n in layers]).amax(0)
        scales = smoothing_scales(largest[x], columns, options.strength)
        _divide(model, x, layers, scales)
        for layer in layers:
            _scale(model, _weight(layer), scales)
    model.tidy()
    return model.with_step(Step("smooth", options=options_of(options))) if groups else model


def smoothing_scales(inputs: Tensor, weights: Tensor, strength: float) -> Tensor:
    """s_j of each channel, > 0, with the geometric mean 1. inputs, weights: largest magnitudes [channels], >= 0.

    A channel that is always 0, or that no weight reads, keeps the scale 1.
    """
    inputs, weights = inputs.double(), weights.double()
    used = (inputs > _LEAST * inputs.amax()) & (weights > _LEAST * weights.amax())
    if not used.any():
        return torch.ones_like(inputs).float()
    logs = strength * inputs.clamp(min=1e-30).log() - (1 - strength) * weights.clamp(min=1e-30).log()
    logs = torch.where(used, logs - logs[used].mean(), torch.zeros_like(logs))
    return logs.exp().float()


def _groups(model: Model, exclude: Sequence[str]) -> dict[Node, list[Node]]:
    """Value → the linear layers that read it, each with a weight of its own."""
    excluded = matching(list(model.layers()), exclude) if exclude else set()
    found: dict[Node, list[Node]] = {}
    for node in model.nodes:
        if packet(node) != "linear" or model.layer(node) in excluded:
            continue
        x, weight = node.args[:2]
        if not (isinstance(x, Node) and isinstance(weight, Node)) or x.op == "get_attr" or weight.op != "get_attr":
            continue
        if len(weight.users) == 1:
            found.setdefault(x, []).append(node)
    return found


def _weight(layer: Node) -> Node:
    weight = layer.args[1]
    assert isinstance(weight, Node)
    return weight


def _largest(
    model: Model, values: Sequence[Node], batches: Sequence[tuple[tuple[Tensor, ...], Tensor | None]],
    on_batch: Callable[[], None],
) -> dict[Node, Tensor]:  # fmt: skip
    """Value → the largest magnitude of each channel (its last axis) over the batches."""
    found: dict[Node, Tensor] = {}

    def looker(node: Node) -> Callable[[Tensor], None]:
        def look(x: Tensor) -> None:
            seen = x.detach().abs().reshape(-1, x.shape[-1]).amax(0)
            found[node] = torch.maximum(found[node], seen) if node in found else seen

        return look

    recorder = Watch(model, {node: [looker(node)] for node in values})
    with torch.inference_mode():
        for inputs, _ in batches:
            recorder.run(*inputs)
            on_batch()
    if len(found) < len(values):
        raise PacklightError("the calibration data is empty: no value was seen")
    wild = next((n for n, x in found.items() if not x.isfinite().all()), None)
    if wild is not None:
        raise PacklightError(f"calibration met NaN or infinity at {model.layer(wild)!r}: the network overflows")
    return {n: x.clone() for n, x in found.items()}


def _norm(x: Node, layers: Sequence[Node]) -> bool:
    """Whether x comes from a layer norm over its last axis whose weight and bias can take the scales in."""
    if packet(x) != "layer_norm" or set(x.users) != set(layers):
        return False
    constants = [x.args[i] if i < len(x.args) else None for i in (2, 3)]
    if not isinstance(x.args[1], list | tuple) or len(x.args[1]) != 1:
        return False
    return isinstance(constants[0], Node) and all(
        c is None or (isinstance(c, Node) and c.op == "get_attr" and len(c.users) == 1) for c in constants
    )


def _divide(model: Model, x: Node, layers: Sequence[Node], scales: Tensor) -> None:
    if _norm(x, layers):
        for constant in (c for c in x.args[2:4] if isinstance(c, Node)):
            _scale(model, constant, 1 / scales)
        return
    graph = model.graph_module.graph
    name = f"{model.layer(x)}.smooth"
    free, i = name, 0
    while free in model.named_tensors():
        i += 1
        free = f"{name}_{i}"
    model.set_tensor(free, 1 / scales)
    with graph.inserting_before(layers[0]):
        divided = graph.call_function(torch.ops.aten.mul.Tensor, (x, graph.get_attr(free)))
    divided.meta["layer"] = free
    for layer in layers:
        layer.replace_input_with(x, divided)


def _scale(model: Model, constant: Node, factors: Tensor) -> None:
    """Multiply a parameter's last axis, in place."""
    value = model.tensor(constant)
    with torch.no_grad():
        value.mul_(factors.to(value.dtype))

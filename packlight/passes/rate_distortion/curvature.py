"""How much the loss rises, to second order, when weights move.

For a layer's weights δL ≈ ½ Σ_r g_r δ_rᵀ H δ_r: H is the second moment of what the layer reads (Hassibi and Stork 1993,
"Optimal Brain Surgeon"; Frantar et al. 2022, arXiv 2210.17323), and the gain g_r of output channel r makes the trace of
that row's block equal that of the Fisher information, as Martens and Grosse 2015 (arXiv 1503.05671) split it into a
part of the inputs and one of the outputs. For other parameters the diagonal of the Fisher information stands alone.

The Fisher information is that of the network's own predictions (Kunstner et al. 2019, arXiv 1905.12558): no labels are
needed. Gradients of sampled labels have mean zero, so the squared gradient of a batch's sum estimates the sum of its
samples' squares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import argument, packet
from packlight.passes.patches import features
from packlight.passes.watch import Watch

Batch = tuple[Tensor, ...]
_LAYERS = ("linear", "conv1d", "conv2d")
_WIDEST = 8192  # features


@dataclass(frozen=True)
class Layer:
    """A weight of one layer. node: the layer. weight, bias: names of its tensors, bias "" where it has none of its
    own. moments: float64 [groups, features + 1, features + 1], sums over samples of the second moments of what an
    output channel reads, a constant 1 as the last feature. gains: float64 [groups, outputs of a group]."""

    node: Node
    weight: str
    bias: str
    moments: Tensor
    gains: Tensor


@dataclass(frozen=True)
class Curvature:
    """layers: linear layers and convolutions, whose weights may be constants, a Fourier basis say. diagonal: by name of
    every other parameter, float64 of its shape, the Fisher information's diagonal a sample."""

    layers: Sequence[Layer]
    diagonal: Mapping[str, Tensor]


def curvature(model: Model, batches: Sequence[Batch], *, classes: bool, seed: int = 0) -> Curvature:
    """Of a float Model in eval mode, batch norms folded.

    batches: inputs; none: every weight counts alike. classes: whether the first output holds scores of classes along
    axis 1, so that the loss is their likelihood; else it is the squared change of the outputs.
    """
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    constants = {n: t for n, t in model.named_tensors().items() if n not in parameters and t.dtype == torch.float32}
    found = _weighted(model, parameters | constants)
    parameters |= {n: constants[n] for names in found.values() for n in names if n in constants}
    fisher = _fisher(model, parameters, batches, classes, seed)
    moments = _moments(model, found, batches)
    samples = max(1, sum(len(b[0]) for b in batches))
    layers = []
    for node, (weight, bias) in found.items():
        value = parameters[weight]
        gram = moments.get(node)
        if gram is None:
            groups = 1 if packet(node) == "linear" else int(argument(node, "groups"))
            gram = torch.eye(value[0].numel() + 1, dtype=torch.float64).expand(groups, -1, -1)
        gram = gram / samples
        of_rows = fisher[weight].reshape(len(gram), -1, value[0].numel()).sum(2)
        gains = of_rows / gram.diagonal(dim1=1, dim2=2)[:, None, :-1].sum(2).clamp_min(1e-30)
        layers.append(Layer(node, weight, bias, gram, gains))
    held = {n for layer in layers for n in (layer.weight, layer.bias)}
    return Curvature(layers, {n: f for n, f in fisher.items() if n not in held})


def _weighted(model: Model, parameters: Mapping[str, Tensor]) -> dict[Node, tuple[str, str]]:
    """Layers whose weight no other layer reads."""
    found = {}
    for node in model.nodes:
        weight = node.args[1] if packet(node) in _LAYERS else None
        if not isinstance(weight, Node) or str(weight.target) not in parameters or len(weight.users) > 1:
            continue
        if model.tensor(weight)[0].numel() > _WIDEST:
            continue
        bias = node.args[2] if len(node.args) > 2 else None
        own = isinstance(bias, Node) and str(bias.target) in parameters and len(bias.users) == 1
        found[node] = str(weight.target), str(bias.target) if own else ""  # type: ignore[union-attr]
    return found


def _moments(model: Model, layers: Mapping[Node, object], batches: Sequence[Batch]) -> dict[Node, Tensor]:
    sums: dict[Node, Tensor] = {}

    def looking(node: Node) -> object:
        size = tuple(model.tensor(node.args[1]).shape[2:])  # type: ignore[arg-type]

        def look(x: Tensor) -> None:
            rows = features(node, x, size)
            if rows is not None:
                rows = torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], 2)
                gram = (rows.transpose(1, 2) @ rows).double()
                sums[node] = sums[node] + gram if node in sums else gram

        return look

    watched: dict[Node, list[object]] = {}
    for node in layers:
        watched.setdefault(node.args[0], []).append(looking(node))  # type: ignore[arg-type]
    with torch.inference_mode():
        recorder = Watch(model, watched)  # type: ignore[arg-type]
        for batch in batches:
            recorder.run(*batch)
    return sums


def _fisher(
    model: Model, parameters: Mapping[str, Tensor], batches: Sequence[Batch], classes: bool, seed: int
) -> dict[str, Tensor]:
    """By parameter name, float64 of its shape, a sample."""
    if not batches:
        return {n: torch.ones(p.shape, dtype=torch.float64) for n, p in parameters.items()}
    generator = torch.Generator().manual_seed(seed)
    sums = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in parameters.items()}
    with _followed(parameters.values()):
        for batch in batches:
            loss = _loss(model.flat(*batch), classes, generator)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient.double().square()
    samples = sum(len(b[0]) for b in batches)
    return {n: s / samples for n, s in sums.items()}


@contextmanager
def _followed(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Constants get gradients, too, for a while."""
    constant = [t for t in tensors if not t.requires_grad]
    try:
        for tensor in constant:
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor in constant:
            tensor.requires_grad_(False)


def _loss(outputs: Sequence[Tensor], classes: bool, generator: torch.Generator) -> Tensor:
    if classes:
        scores = outputs[0].movedim(1, -1).flatten(0, -2).log_softmax(-1)
        drawn = torch.multinomial(scores.detach().exp(), 1, generator=generator)
        return -scores.gather(1, drawn).sum()
    signs = [(y, torch.randint(0, 2, y.shape, generator=generator) * 2 - 1) for y in outputs if y.is_floating_point()]
    return sum((y * s).sum() for y, s in signs)  # type: ignore[return-value]

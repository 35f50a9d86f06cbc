"""Measures that look at the task's loss L: its gradient g and its Hessian H for a layer's weight w.

gradient: Σ |g · w|, how much the loss changes to first order when weights vanish (Lee et al. 2019, arXiv 1810.02340,
section 4.1), of the mean gradient over the data.
fisher: the trace of the diagonal empirical Fisher information, the mean over samples of g² with the labels of the data
(Kunstner et al. 2019, arXiv 1905.12558, equation 3, on what it is not).
hessian: the trace of H by Hutchinson's estimate, the mean of vᵀHv over random signs v (Yao et al. 2020, arXiv
1912.07145, section 3.2; Dong et al. 2019, arXiv 1911.03852). One product with the Hessian of all weights serves every
layer, since the signs of different layers are independent; v ⊙ Hv estimates the diagonal (Bekas et al. 2007, "An
estimator for the diagonal of a matrix", equation 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.passes.gradients import Batches, Loss, gradients
from packlight.passes.sensitivity.table import weight_of

Values = dict[str, tuple[float, dict[str, float]]]


def gradient(model: Model, layers: Mapping[str, Node], batches: Batches, loss: Loss) -> Values:
    """Σ |g · w|; beside it |Σ g · w|, what scaling the whole weight would do."""
    names = _names(model, layers)
    total: dict[str, Tensor] = {}
    samples = 0
    for inputs, found in _with_inputs(model, batches, loss, "the measure gradient"):
        samples += len(inputs[0])
        for name in names.values():
            if name in found:
                total[name] = total.get(name, torch.zeros(())) + found[name][1].double() * len(inputs[0])
    made: Values = {}
    for layer, name in names.items():
        product = total.get(name, torch.zeros(1)) / samples * model.named_tensors()[name].detach()
        made[layer] = float(product.abs().sum()), {"signed": abs(float(product.sum()))}
    return made


def fisher(model: Model, layers: Mapping[str, Node], batches: Batches, loss: Loss) -> Values:
    """Σ F, where F is the mean of g² over batches, which are to hold one sample each; beside it the mean of F, and
    ½ Σ F w², what the loss would rise by without the weight to second order."""
    names = _names(model, layers)
    total: dict[str, Tensor] = {}
    count = 0
    for found in gradients(model, batches, loss, "the measure fisher"):
        count += 1
        for name in names.values():
            if name in found:
                total[name] = total.get(name, torch.zeros(())) + found[name][1].double().square()
    return _curved(model, names, {n: t / count for n, t in total.items()})


def hessian(model: Model, layers: Mapping[str, Node], batches: Batches, loss: Loss, probes: int, seed: int) -> Values:
    """tr H from `probes` random vectors; beside it the mean of the diagonal, ½ Σ diag(H) w², and the standard error of
    the trace over the probes."""
    names = _names(model, layers)
    weights = {n: p for n, p in model.named_parameters() if n in set(names.values())}
    generator = torch.Generator().manual_seed(seed)
    held = list(batches)
    diagonals: dict[str, Tensor] = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in weights.items()}
    traces: dict[str, list[float]] = {n: [] for n in weights}
    for _ in range(probes):
        signs = {n: torch.randint(0, 2, p.shape, generator=generator).to(p.dtype) * 2 - 1 for n, p in weights.items()}
        for name, product in _products(model, weights, signs, held, loss).items():
            seen = signs[name].double() * product
            diagonals[name] += seen / probes
            traces[name].append(float(seen.sum()))
    made = _curved(model, names, diagonals)
    for layer, name in names.items():
        spread = torch.tensor(traces[name]).std().item() / probes**0.5 if probes > 1 else 0.0
        made[layer][1]["standard_error"] = spread
    return made


def _products(
    model: Model, weights: Mapping[str, Tensor], signs: Mapping[str, Tensor], batches: Batches, loss: Loss
) -> dict[str, Tensor]:
    """Hv of every weight, the mean over samples."""
    total = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in weights.items()}
    samples = 0
    for inputs, targets in batches:
        if targets is None:
            raise PacklightError("the measure hessian needs targets; the data has none")
        found = _product(model, weights, signs, inputs, targets, loss)
        samples += len(inputs[0])
        for name, product in found.items():
            total[name] += product.double() * len(inputs[0])
    if not samples:
        raise PacklightError("the measure hessian needs data; there is none")
    return {n: t / samples for n, t in total.items()}


def _product(
    model: Model, weights: Mapping[str, Tensor], signs: Mapping[str, Tensor], inputs: tuple[Tensor, ...],
    targets: Tensor, loss: Loss,
) -> dict[str, Tensor]:  # fmt: skip
    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
        try:
            value = loss(model.flat(*inputs), targets)
            first: Sequence[Any] = torch.autograd.grad(
                value, list(weights.values()), create_graph=True, allow_unused=True
            )
            sums = [(g * signs[n]).sum() for n, g in zip(weights, first, strict=True) if g is not None]
            curved = [s for s in sums if s.requires_grad]  # others are linear in every weight
            if not curved:
                return {}
            second: Sequence[Any] = torch.autograd.grad(
                torch.stack(curved).sum(), list(weights.values()), allow_unused=True
            )
        except (RuntimeError, NotImplementedError) as error:
            what = str(error).strip().splitlines()[0]
            raise PacklightError(f"{model.name} cannot be differentiated twice ({what}); take fisher") from error
    for name, product in zip(weights, second, strict=True):
        if product is not None and not bool(torch.isfinite(product).all()):
            raise PacklightError(f"the Hessian of {name} is NaN or infinite; fine-tune the network first")
    return {n: p for n, p in zip(weights, second, strict=True) if p is not None}


def _curved(model: Model, names: Mapping[str, str], diagonals: Mapping[str, Tensor]) -> Values:
    tensors = model.named_tensors()
    made: Values = {}
    for layer, name in names.items():
        weight = tensors[name].detach().double()
        diagonal = diagonals.get(name, torch.zeros_like(weight))
        made[layer] = float(diagonal.sum()), {
            "mean": float(diagonal.mean()), "removal": float((diagonal * weight.square()).sum()) / 2,
        }  # fmt: skip
    return made


def _with_inputs(model: Model, batches: Batches, loss: Loss, what: str) -> Any:
    held = list(batches)
    return zip((inputs for inputs, _ in held), gradients(model, held, loss, what), strict=True)


def _names(model: Model, layers: Mapping[str, Node]) -> dict[str, str]:
    """Layer → the name of its weight. Raises PacklightError where the loss cannot be differentiated for it."""
    trainable = {n for n, _ in model.named_parameters()}
    names = {layer: str(weight_of(node).target) for layer, node in layers.items()}
    fixed = next((layer for layer, name in names.items() if name not in trainable), None)
    if fixed is not None:
        raise PacklightError(f"the weight of {fixed} is no parameter, so that it has no gradient; take removal")
    return names

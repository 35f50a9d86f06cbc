"""Fold batch norm into the convolution or linear layer before it.

In eval mode y = γ · (Wx + b − μ) / √(σ² + ε) + β is again a linear map, with W' = W · γ / √(σ² + ε) and
b' = β + (b − μ) · γ / √(σ² + ε) (Jacob et al. 2018, arXiv 1712.05877, section 3.2). Keeps the Model's
eval-mode outputs to rounding; what folds can no longer be trained as a batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model, Step
from packlight.model.operators import argument, packet

# Axis of the weight that holds output channels.
OUTPUT_AXIS = {
    "linear": 0, "conv1d": 0, "conv2d": 0, "conv3d": 0,
    "conv_transpose1d": 1, "conv_transpose2d": 1, "conv_transpose3d": 1,
}  # fmt: skip


def fold(model: Model) -> Model:
    """A copy of the Model, in eval mode, with every batch norm folded that directly follows its layer.

    Where there is none, the copy's lineage records no step.
    """
    model = model.copy().eval()
    folded_layers = sum(_fold_one(model, n) for n in model.nodes if packet(n) == "batch_norm")
    model.tidy()
    return model.with_step(Step("fold", options={"layers": folded_layers})) if folded_layers else model


def _fold_one(model: Model, norm: Node) -> bool:
    layer = norm.args[0]
    if not isinstance(layer, Node) or packet(layer) not in OUTPUT_AXIS or len(layer.users) != 1:
        return False
    weight_node, bias_node = argument(layer, "weight"), argument(layer, "bias")
    constants = [weight_node, argument(norm, "running_mean"), argument(norm, "running_var")]
    affine = [argument(norm, "weight"), argument(norm, "bias"), bias_node]
    if not all(isinstance(n, Node) and n.op == "get_attr" for n in constants + [a for a in affine if a is not None]):
        return False
    if packet(layer) == "linear" and layer.meta["val"].dim() != 2:
        return False  # batch norm counts axis 1, a linear layer's outputs are the last axis
    weight, mean, variance = (model.tensor(n).detach() for n in constants)
    gamma, beta, bias = (None if n is None else model.tensor(n).detach() for n in affine)
    new_weight, new_bias = folded(
        weight, bias, mean, variance, gamma, beta, argument(norm, "eps"),
        OUTPUT_AXIS[packet(layer)], argument(layer, "groups") if packet(layer) != "linear" else 1,
    )  # fmt: skip
    set_constant(model, layer, "weight", weight_node, new_weight)
    set_constant(model, layer, "bias", bias_node, new_bias)
    norm.replace_all_uses_with(layer)
    model.graph_module.graph.erase_node(norm)
    return True


def folded(
    weight: Tensor, bias: Tensor | None, mean: Tensor, variance: Tensor, gamma: Tensor | None,
    beta: Tensor | None, eps: float, axis: int, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weight and bias [channels] of the layer that does both, computed in float64.

    axis: of the output channels in `weight`; 1 for transposed convolutions, whose groups stand along axis 0.
    """
    scale = (variance.double() + eps).rsqrt()
    if gamma is not None:
        scale = scale * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    new_bias = shift * scale + (0.0 if beta is None else beta.double())
    if axis == 0:
        new_weight = weight.double() * scale.reshape(-1, *([1] * (weight.dim() - 1)))
    else:
        split = weight.double().reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        new_weight = (split * scale.reshape(groups, 1, -1, *([1] * (weight.dim() - 2)))).reshape(weight.shape)
    return new_weight.to(weight.dtype), new_bias.to(weight.dtype)


def set_constant(model: Model, layer: Node, role: str, old: Node | None, value: Tensor) -> None:
    """Set a layer's weight or bias (role), in place; old: the node that it reads, of which others keep the value."""
    if old is not None and len(old.users) == 1:
        model.set_tensor(str(old.target), value, trainable=True)
        return
    owner = str(argument(layer, "weight").target).rpartition(".")[0]
    stem = f"{owner}.{role}" if owner else role
    taken, name, i = model.named_tensors(), stem, 0
    while name in taken:
        i += 1
        name = f"{stem}_{i}"
    model.set_tensor(name, value, trainable=True)
    with model.graph_module.graph.inserting_before(layer):
        node = model.graph_module.graph.get_attr(name)
    node.meta["val"] = torch.empty_like(value, device="meta")
    position = {"weight": 1, "bias": 2}[role]
    args = [*layer.args, *([None] * (position + 1 - len(layer.args)))]
    args[position] = node
    layer.args = tuple(args)

"""Batch norms in training: over the samples of all processes, and of single values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from packlight.model import Model
from packlight.model.operators import packet


def synchronise(model: Model, alone: bool) -> None:
    """Have batch norms take their statistics from all processes' shares of a batch (in place)."""
    for node in model.nodes:
        if packet(node) == "batch_norm":
            node.target = lone_batch_norm if alone else batch_norm
    model.graph_module.recompile()


def lone_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    training: bool, momentum: float, eps: float, cudnn: bool = False,
) -> Tensor:  # fmt: skip
    """aten.batch_norm, but a single value a channel, which has no variance, leaves the statistics as they are."""
    if training and x.numel() == x.shape[1]:
        mean = var = None
    return torch.batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    training: bool, momentum: float, eps: float, _cudnn: bool = False,
) -> Tensor:  # fmt: skip
    """aten.batch_norm with the arguments' meaning, but in training over the samples of all processes."""
    if not training:
        return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps)
    wide = x.float()  # statistics need more than half precision
    ones, zeros = wide.new_ones(x.shape[1]), wide.new_zeros(x.shape[1])
    gain, shift = (ones if weight is None else weight), (zeros if bias is None else bias)
    y, centre, spread, count = _Norm.apply(wide, gain, shift, eps)  # type: ignore[no-untyped-call]
    if mean is not None and var is not None and count > 1:
        mean.lerp_(centre.to(mean.dtype), momentum)
        var.lerp_((spread * count / (count - 1)).to(var.dtype), momentum)
    normed: Tensor = y.to(x.dtype)
    return normed


for _norm in (batch_norm, lone_batch_norm):  # told by name, arguments too
    _norm.__name__ = "batch_norm"
    _norm._schema = torch.ops.aten.batch_norm.default._schema  # type: ignore[union-attr]


class _Norm(torch.autograd.Function):
    """One message each way, a pass over the data for the statistics and one to normalise, by the native operators.

    Statistics of the processes are joined without differences of large squares: Chan, Golub, LeVeque 1982, "Updating
    formulae and a pairwise algorithm for computing sample variances". The gradient: Ioffe, Szegedy 2015 (arXiv
    1502.03167), section 3, with the sums over the batch taken over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        mine, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        values = x.numel() / x.shape[1]
        table = _gathered(torch.cat([mine, variance, x.new_full((1,), values)]))
        counts = table[:, -1:]
        total = counts.sum()
        means, variances = table[:, :-1].chunk(2, 1)
        share = counts / total
        mean = (share * means).sum(0)
        var = (share * (variances + (means - mean).square())).sum(0)
        y = torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, False)
        ctx.save_for_backward(x, weight, mean, var, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var, float(total)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, mean, var, total = ctx.saved_tensors
        given = gradients[0].contiguous()
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            given, x, weight, mean, var, mean, var, False, ctx.eps, [False, True, True]
        )
        sums = torch.cat([of_weight, of_bias])
        torch.distributed.all_reduce(sums)
        along, even = (sums / total).chunk(2)
        scale = (var + ctx.eps).rsqrt()
        shape = [1, -1, *[1] * (x.dim() - 2)]
        slope = (-weight * scale.square() * along).reshape(shape)
        level = (-weight * scale * even).reshape(shape) - slope * mean.reshape(shape)
        of_x = torch.addcmul(level, x, slope).addcmul_(given, (weight * scale).reshape(shape))
        return of_x, of_weight, of_bias, None


def _gathered(mine: Tensor) -> Tensor:
    """The vectors of all processes as rows."""
    rows = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(rows, mine)
    return torch.stack(rows)

"""One run over several processes (torchrun), on accelerate: shares of a batch, sums of gradients, whole-batch norms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packlight.model import Model
from packlight.model.operators import packet


class Processes:
    """Those that share a run. count, rank, device; alone: there is one."""

    def __init__(self) -> None:
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        self.count, self.rank, self.device = state.num_processes, state.process_index, state.device
        self.alone, self.main = self.count == 1, state.is_main_process
        self.wait = state.wait_for_everyone

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients summed over processes, in one message."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.alone or not gradients:
            return
        flat = self.sum(torch.cat([g.reshape(-1).float() for g in gradients]))
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].reshape(gradient.shape))
            start += gradient.numel()

    def sum(self, value: Tensor) -> Tensor:
        if not self.alone:
            torch.distributed.all_reduce(value)
        return value

    def together(self, mine: Any) -> list[Any]:
        """What every process gave, in the order of ranks."""
        if self.alone:
            return [mine]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, mine)
        return found

    def synchronise_norms(self, model: Model) -> None:
        """Have batch norms take their statistics from all processes' shares of a batch (in place)."""
        for node in model.nodes:
            if packet(node) == "batch_norm":
                node.target = lone_batch_norm if self.alone else batch_norm
        model.graph_module.recompile()


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    training: bool, momentum: float, eps: float, _cudnn: bool = False,
) -> Tensor:  # fmt: skip
    """aten.batch_norm with the arguments' meaning, but in training over the samples of all processes."""
    if not training:
        return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps)
    given, x = x.dtype, x.float()  # sums of squares need more than half precision
    axes = [0, *range(2, x.dim())]
    count = x.numel() / x.shape[1]
    sums = torch.cat([x.sum(axes), x.square().sum(axes), x.new_full((1,), count)])
    sums = _summed(sums)
    total, (first, second) = sums[-1], sums[:-1].chunk(2)
    centre = first / total
    spread = (second / total - centre.square()).clamp_min(0)
    if mean is not None and var is not None:
        with torch.no_grad():
            mean.lerp_(centre.to(mean.dtype), momentum)
            var.lerp_((spread * total / (total - 1).clamp_min(1)).to(var.dtype), momentum)
    shape = [1, -1, *[1] * (x.dim() - 2)]
    y = (x - centre.reshape(shape)) * (spread + eps).rsqrt().reshape(shape)
    if weight is not None:
        y = y * weight.reshape(shape)
    return (y if bias is None else y + bias.reshape(shape)).to(given)


def lone_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    training: bool, momentum: float, eps: float, cudnn: bool = False,
) -> Tensor:  # fmt: skip
    """aten.batch_norm, but a single value a channel, which has no variance, leaves the statistics as they are."""
    if training and x.numel() == x.shape[1]:
        mean = var = None
    return torch.batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn)


for _norm in (batch_norm, lone_batch_norm):  # told by name, arguments too
    _norm.__name__ = "batch_norm"
    _norm._schema = torch.ops.aten.batch_norm.default._schema  # type: ignore[union-attr]


class _Summed(torch.autograd.Function):
    """The sum over processes; the gradient of a sum that every process uses is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].clone()
        torch.distributed.all_reduce(gradient)
        return gradient


def _summed(value: Tensor) -> Tensor:
    result: Tensor = _Summed.apply(value)  # type: ignore[no-untyped-call]
    return result


def shares(n: int, rank: int, processes: int) -> Sequence[int]:
    """The samples of n that a process evaluates: a contiguous run; together they are all, once."""
    return range(n * rank // processes, n * (rank + 1) // processes)

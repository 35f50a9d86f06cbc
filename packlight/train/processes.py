"""One run over several processes (torchrun), on accelerate: shares of a batch, sums of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


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


def shares(n: int, rank: int, processes: int) -> Sequence[int]:
    """The samples of n that a process evaluates: a contiguous run; together they are all, once."""
    return range(n * rank // processes, n * (rank + 1) // processes)

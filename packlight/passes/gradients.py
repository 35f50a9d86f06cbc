"""Gradients of a task's loss for a Model's parameters, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model import Model

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]
Batches = Iterable[tuple[tuple[Tensor, ...], Tensor | None]]


def gradients(model: Model, batches: Batches, loss: Loss, what: str) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """For every batch: parameter name → (value, gradient), of those that the loss depends on.

    what: who asks, for errors. Raises PacklightError without data or targets, and for gradients that are not finite.
    """
    parameters = dict(model.named_parameters())
    count = 0
    for inputs, targets in batches:
        if targets is None:
            raise PacklightError(f"{what} needs targets; the data has none")
        count += 1
        model.graph_module.zero_grad(set_to_none=True)
        loss(model.flat(*inputs), targets).backward()  # type: ignore[no-untyped-call]
        found = {n: (p.detach(), p.grad) for n, p in parameters.items() if p.grad is not None}
        broken = next((n for n, (_, g) in found.items() if not bool(torch.isfinite(g).all())), None)
        if broken is not None:
            raise PacklightError(f"the gradient of {broken} is NaN or infinite; fine-tune the network first")
        yield found
    model.graph_module.zero_grad(set_to_none=True)
    if not count:
        raise PacklightError(f"{what} needs data; there is none")

"""Random inputs that a network can be run on without knowing its data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model.model import Model
from packlight.model.operators import kind, packet


def plausible_inputs(model: Model, dims: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Random inputs; integers lie in the smallest table that they look up, and a mask of integers over (batch, tokens)
    hides the last quarter: a token that may look at none has no result that runtimes agree on."""
    made, sizes = [], {**model.dims, **dims}
    generator = torch.Generator().manual_seed(0)
    placeholders = [n for n in model.nodes if n.op == "placeholder"]
    for spec, node in zip(model.inputs, placeholders, strict=True):
        shape, dtype = spec.sizes(sizes), getattr(torch, spec.dtype)
        if dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(dtype))
        elif dtype.is_complex:
            made.append(torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype))
        elif spec.name.endswith("mask") and len(shape) == 2:
            made.append((torch.arange(shape[1]) < -(-3 * shape[1] // 4)).expand(shape).to(dtype).clone())
        else:
            made.append(torch.randint(0, _ceiling(model, node), shape, generator=generator).to(dtype))
    return tuple(made)


def _ceiling(model: Model, node: Node) -> int:
    """One more than the largest index that every table takes which this input looks up; 2 where there is none."""
    rows, pending, seen = [], [node], {node}
    while pending:
        current = pending.pop()
        for user in current.users:
            if packet(user) == "embedding" and user.args[1] is current:
                rows.append(int(user.args[0].meta["val"].shape[0]))  # type: ignore[union-attr]
            elif packet(user) in ("index_select", "gather") and user.args[2] is current:
                rows.append(int(user.args[0].meta["val"].shape[user.args[1]]))  # type: ignore[union-attr]
            elif user not in seen and kind(user) in ("unary", "reshape", "permute", "select", "broadcast"):
                seen.add(user)
                pending.append(user)
    return max(1, min(rows)) if rows else 2

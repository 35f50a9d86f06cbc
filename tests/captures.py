"""The zoo's networks captured, once a session, and how tests call them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from zoo import make

from packlight.model import Model
from packlight.sources import from_module


@dataclass(frozen=True)
class Captured:
    """module: with one submodule in train mode, on purpose. before: its state and flags before the capture."""

    module: nn.Module
    example: Any
    model: Model
    before: dict[str, Any]

    def fresh(self) -> nn.Module:
        """A copy of the module, in eval mode, that a test may change."""
        return copy.deepcopy(self.module).eval()


def state_of(module: nn.Module) -> dict[str, Any]:
    """Everything about a module that a capture must not change."""
    return {
        "tensors": {n: t.clone() for n, t in module.state_dict().items()},
        "training": [m.training for m in module.modules()],
        "kinds": [(type(p), p.device, p.requires_grad, p.grad) for p in module.parameters()],
        "random": torch.get_rng_state(),
    }


@cache
def captured(name: str) -> Captured:
    """A network of the zoo with its Model, captured once a session."""
    module, example = make(name)
    last = list(module.modules())[-1]
    last.train()
    before = state_of(module)
    return Captured(module, example, from_module(module, example), before)


def call(network: Any, example: Any) -> Any:
    """Call a module or a Model the way its example inputs are given."""
    if isinstance(example, dict):
        return network(**example)
    return network(*example) if isinstance(example, tuple) else network(example)


def resized(example: Any, batch: int) -> Any:
    """Example inputs with another batch size, made by repetition and cutting."""
    return tree_map(lambda t: t[torch.arange(batch) % len(t)], example)


def flat(outputs: Any) -> list[Tensor]:
    """The tensors of nested outputs, in order."""
    return [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]

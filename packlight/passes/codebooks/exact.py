"""Weights that happen to have few different values, as tables: the same numbers in smaller files for runtimes."""

from __future__ import annotations

import torch

from packlight.model import Model, Step
from packlight.model.codebooks import Codes, insert_lookup
from packlight.model.shapes import propagate
from packlight.passes.codebooks.weights import weights_of

_MOST = 256


def as_tables(model: Model) -> Model:
    """A copy whose weights of at most 256 different values are looked up in tables; every number stays the same."""
    model = propagate(model.copy().eval())
    for weight in list(weights_of(model, (), {})):
        table, index = torch.unique(weight.value, return_inverse=True)
        if len(table) <= _MOST and 4 * len(table) + index.numel() < weight.value.nbytes:
            insert_lookup(model, weight.node, Codes(index.to(torch.uint8), table[None]), weight.layer)
    return propagate(model.tidy()).with_step(Step("as_tables"))

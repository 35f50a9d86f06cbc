"""A task's samples in the batches that a Model takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from packlight.model import Model
from packlight.task import Data

Samples = list[tuple[tuple[Tensor, ...], Tensor | None]]


def batches_of(model: Model, data: Data, samples: int, size: int) -> Samples:
    """The first samples as (inputs, targets), `size` a batch. A network of one batch size is fed that size; a rest that
    does not fill it is left out, but for the only one. Raises PacklightError where they do not fit the Model."""
    fixed = model.fixed_batch
    found: Samples = []
    for batch in data.take(samples).batches(fixed or size):
        if fixed is None or len(batch) == fixed or not found:
            model.check_inputs([x.shape for x in batch.inputs], [str(x.dtype) for x in batch.inputs])
            inputs = tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in batch.inputs)
            found.append((inputs, None if batch.targets is None else torch.from_numpy(np.asarray(batch.targets))))
    return found


def even_batches(batches: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """Those as large as the first: without the rest at the end."""
    return [b for b in batches if len(b[0]) == len(batches[0][0])]

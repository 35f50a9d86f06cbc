"""Refuse networks whose weights hold NaN or infinity, before any work starts."""

from __future__ import annotations

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model.model import Model


def check_finite(model: Model) -> None:
    """Raise PacklightError naming the tensor and how many of its elements are not finite.

    Buffers may hold infinities (attention masks do), but no NaN.
    """
    parameters = {n for n, _ in model.named_parameters()}
    for name, tensor in model.named_tensors().items():
        count = _not_finite(tensor.detach(), infinity_too=name in parameters)
        if count:
            raise PacklightError(
                f"{model.name}: {count} of {tensor.numel()} values of {name!r} are NaN or infinite; "
                "load a healthy checkpoint"
            )


def _not_finite(tensor: Tensor, infinity_too: bool) -> int:
    if not tensor.dtype.is_floating_point or not tensor.numel():
        return 0
    if tensor.element_size() == 1:
        tensor = tensor.float()
    low, high = torch.aminmax(tensor)  # one pass, and NaN comes through it
    if not torch.isnan(low) and (not infinity_too or torch.isfinite(high - low)):
        return 0
    return int((~torch.isfinite(tensor) if infinity_too else torch.isnan(tensor)).sum())

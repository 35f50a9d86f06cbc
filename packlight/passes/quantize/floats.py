"""Weights alone in floats of one or two bytes; what reads them computes in float32.

FP8 as in Micikevicius et al. 2022 (arXiv 2209.05433), section 3: E4M3 has three bits of fraction and no infinity, E5M2
two. Each output channel is divided by a float32 scale of its own, so that its largest magnitude is the format's largest
value (section 4.2 there has one scale a tensor or a channel). Bfloat16 and half precision hold weights as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model import Model, Step
from packlight.model.floats import insert_narrow, narrow
from packlight.model.numerics import FloatFormat, Numerics
from packlight.model.shapes import propagate
from packlight.passes.codebooks.weights import Weight, weights_of
from packlight.passes.fold import fold

_SCALE_BYTES = 4


def float_format(name: str, numerics: Numerics) -> FloatFormat:
    """One of the target's formats by its name."""
    found = {form.name: form for form in numerics.floats}
    if name not in found:
        known = ", ".join(["2 to 8 bits", *found])
        raise PacklightError(f"weights {name!r}: choose {known}")
    return found[name]


def refuse_others(form: FloatFormat, mode: str, others: Mapping[str, bool]) -> None:
    """Raise PacklightError unless weights alone are asked for, and none of the options that are for integers.

    others: option → whether it was given."""
    if mode != "weights":
        raise PacklightError(f"weights {form.name!r} leave activations in float: choose mode 'weights', got {mode!r}")
    given = [name for name, there in others.items() if there]
    if given:
        raise PacklightError(f"weights {form.name!r} go without {', '.join(given)}, which integers take")


def store_floats(model: Model, form: FloatFormat, exclude: Sequence[str] = ()) -> Model:
    """A copy of a Model, in eval mode, whose weights are stored in a low-precision float; batch norm is folded first.

    exclude: layer-name patterns (shell wildcards) that stay in float32. What else does, and why, is in the result's
    `notes`. Raises PacklightError for a model that is quantized already, or has no weight to store so.
    """
    if model.is_quantized:
        raise PacklightError(f"{model.name} is quantized already; start from its float version")
    model = propagate(fold(model))
    kept: dict[str, str] = {}
    chosen: list[tuple[Weight, Tensor | None]] = []
    for weight in weights_of(model, exclude, kept):
        scale = channel_scales(weight.value, weight.axis, form) if form.scaled else None
        reason = _unfit(weight.value, form, scale)
        if reason:
            kept[weight.layer] = reason
        else:
            chosen.append((weight, scale))
    if not chosen:
        reasons = "; ".join(f"{k}: {v}" for k, v in list(kept.items())[:3])
        raise PacklightError(f"{model.name} has no weights to store in {form.name} ({reasons or 'no layer fits'})")
    for weight, scale in chosen:
        insert_narrow(model, weight.node, form.dtype, scale, weight.layer)
    model.notes = (*model.notes, *(f"{layer} stays in float: {why}" for layer, why in kept.items()))
    options = {"mode": "weights", "weights": form.name, "exclude": list(exclude)}
    return propagate(model.tidy()).with_step(Step("quantize", options=options))


def channel_scales(weight: Tensor, axis: int, form: FloatFormat) -> Tensor:
    """float32 > 0, of the weight's rank: by which the largest magnitude along `axis` is the format's largest value."""
    others = [a for a in range(weight.dim()) if a != axis]
    return (weight.abs().amax(others, keepdim=True) / form.largest).clamp(min=torch.finfo(torch.float32).tiny)


def _unfit(weight: Tensor, form: FloatFormat, scale: Tensor | None) -> str:
    """Why a weight stays in float32, "" when it need not. Within a format's range no value is off by more than half of
    its epsilon, relative to itself."""
    if scale is not None:
        saved = weight.numel() * (weight.element_size() - form.dtype.itemsize)
        return "its scales would take what is saved" if scale.numel() * _SCALE_BYTES >= saved else ""
    off = (narrow(weight, form.dtype).double() - weight).norm() / weight.double().norm().clamp(min=1e-300)
    return "" if off <= torch.finfo(form.dtype).eps / 2 else f"{form.name} has not the range for its weights"

"""A file run beside the Model right after it was written: converters were seen to change what is computed, or the
order of axes, without a word. It runs twice, because files were seen to be right only the first time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from packlight.errors import PacklightError
from packlight.targets.contract import Session

if TYPE_CHECKING:
    from packlight.model import Model


# Relative errors on random inputs that only a wrong file has. Good ones were seen at 1e-3 with float16 weights, and at
# 0.08 in int8 on deep networks that random inputs confuse.
_FLOAT, _QUANTIZED = 1e-2, 0.25
_RUNS = 2


def run_beside(
    model: Model, session: Session, dims: Mapping[str, int], converter: str, limit: float | None = None
) -> None:
    """Raise PacklightError where an opened file gives another shape than the Model, or is off by more than `limit` of
    an output's root mean square, on random inputs. converter: what to call the culprit. limit: default: by
    whether the Model is quantized."""
    if limit is None:
        limit = _QUANTIZED if model.is_quantized else _FLOAT
    whole = model.copy().eval()
    for seed in range(_RUNS):
        inputs = model.example_inputs(seed, **dims)
        with torch.no_grad():
            wanted = [t.double().numpy() for t in whole.flat(*inputs)]
        got = session.run([t.numpy() for t in inputs])
        for spec, g, w in zip(model.outputs, got, wanted, strict=True):
            if g.shape != w.shape:
                raise PacklightError(f"{converter} gives {spec.name} the shape {g.shape}, {model.name} {w.shape}")
            error = _error(g, w)
            if not error <= limit:
                raise PacklightError(
                    f"{converter} changes what {model.name} computes: {spec.name} is off by {error:.2g} of its size on "
                    "random inputs; use another target, and please report the network"
                )


def _error(got: Any, wanted: Any) -> float:
    """Of two arrays, relative to the root mean square of `wanted`; 0 where that is not finite."""
    if not np.isfinite(wanted).all():
        return 0.0
    return float(np.linalg.norm(got - wanted)) / max(float(np.linalg.norm(wanted)), 1e-12)

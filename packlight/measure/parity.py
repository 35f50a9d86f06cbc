"""Does the exported file, on its runtime, compute what the Model computes?"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from packlight.measure.quality import torch_runner
from packlight.model import Model
from packlight.model.operators import kind
from packlight.model.spec import TensorSpec
from packlight.targets.artifact import Artifact, Runner
from packlight.targets.export import export

Array = NDArray[Any]

# Largest accepted root-mean-square difference over the root-mean-square output. Float files differ by the order
# of additions and by float16 storage; quantized ones also by a rounding step here and there.
FLOAT_LIMIT, QUANTIZED_LIMIT = 2e-3, 5e-2


@dataclass(frozen=True)
class Parity:
    """error: root-mean-square difference over root-mean-square of the Model's output, >= 0, worst output.
    limit: the largest that passes. layer: the first that differs by more, where one was looked for."""

    error: float
    limit: float
    layer: str | None = None

    @property
    def ok(self) -> bool:
        return self.error <= self.limit


def relative_error(got: Array, wanted: Array) -> float:
    """Root-mean-square of got − wanted over root-mean-square of wanted; infinite on NaN or other shapes."""
    if got.shape != wanted.shape:
        return float("inf")
    if got.size == 0:
        return 0.0
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    if not np.isfinite(got).all():
        return float("inf")
    scale = float(np.sqrt(np.mean(wanted**2)))
    return float(np.sqrt(np.mean((got - wanted) ** 2))) / max(scale, 1e-12)


def check(model: Model, artifact: Artifact, inputs: tuple[Array, ...]) -> Parity:
    """Compare an artifact with the Model it was made from on real inputs; a failure names the first bad layer."""
    limit = _limit(model)
    with Runner(artifact, 1, inputs) as runner:
        got = runner(*inputs)
    wanted = torch_runner(model)(*inputs)
    error = max(relative_error(g, w) for g, w in zip(got, wanted, strict=True))
    if error <= limit:
        return Parity(error, limit)
    return Parity(error, limit, first_difference(model, artifact, inputs))


def first_difference(model: Model, artifact: Artifact, inputs: tuple[Array, ...]) -> str | None:
    """The first layer, in graph order, whose value on the runtime differs by more than the limit.

    The Model is exported once more with every float value as an output.
    """
    probe, layers = _with_inner_outputs(model)
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        path = Path(folder) / f"probe{artifact.target.suffix}"
        probed = export(probe, path, artifact.target, form=artifact.manifest["form"])
        with Runner(probed, 1, inputs) as runner:
            got = runner(*inputs)
    wanted = torch_runner(probe)(*inputs)
    for layer, g, w in zip(layers, got, wanted, strict=True):
        if relative_error(g, w) > _limit(model):
            return layer
    return None


def _limit(model: Model) -> float:
    return QUANTIZED_LIMIT if any(kind(n) == "quantize" for n in model.nodes) else FLOAT_LIMIT


def _with_inner_outputs(model: Model) -> tuple[Model, list[str]]:
    from packlight.model.shapes import propagate

    probe = propagate(model.copy().eval())
    shown = [n for n in probe.nodes if n.op == "call_function" and _observable(n)]
    output = next(n for n in probe.nodes if n.op == "output")
    output.args = (tuple(shown),)
    probe.graph_module.recompile()
    layers = [probe.layer(n) for n in shown]
    probe.outputs = tuple(
        TensorSpec(f"probe_{i}", "float32", tuple(n.meta["val"].shape)) for i, n in enumerate(shown)
    )
    probe.structure = {"list": list(range(len(shown)))}
    return probe, layers


def _observable(node: Node) -> bool:
    """A float value that the runtime also has: quantized kernels hide what is inside their group."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return False
    if kind(node) == "quantize":
        return "per_tensor" in str(node.target)
    return not any(kind(u) == "quantize" for u in node.users)

"""Does the exported file, on its runtime, compute what the Model computes?

Two numbers a file. error = rms(got − wanted) / rms(wanted): it sees what is wrong anywhere. gain = ⟨got, wanted⟩ /
⟨wanted, wanted⟩: for quantized files, where a value that lies between two steps may be rounded either way and error
is a few thousandths on good files, it still sees a scale that is wrong by 1 %, because rounding averages out of it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.measure.quality import in_pieces, torch_runner
from packlight.model import Model
from packlight.model.floats import narrowed
from packlight.model.operators import kind
from packlight.model.shapes import propagate
from packlight.model.spec import TensorSpec
from packlight.targets import Artifact, Runner, Target, adapted, export

Array = NDArray[Any]

# Good files were seen at errors up to 1e-6 in a target's plainest form, 1e-3 with float16 weights, and 1e-2 in int8,
# there with a gain within 4e-4 of 1.
_PERFECT = 200.0  # dB
FLOAT_LIMIT, REDUCED_LIMIT, QUANTIZED_LIMIT, GAIN_LIMIT = 1e-3, 5e-3, 3e-2, 5e-3


@dataclass(frozen=True)
class Difference:
    """error: rms difference over rms of what is wanted, >= 0; of integers, the share that differs. gain: slope of got
    over wanted, 1 where they agree."""

    error: float
    gain: float

    def within(self, limit: float) -> bool:
        """Whether the error is at most `limit` and the gain right."""
        return self.error <= limit and abs(self.gain - 1) <= GAIN_LIMIT


@dataclass(frozen=True)
class Parity:
    """error, gain: of the worst output. limit: the largest error that passes. layer: the first that the runtime
    computes otherwise, None where none does or none was looked for. reason: one line on what is wrong, "" when ok."""

    error: float
    gain: float
    limit: float
    layer: str | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the file computes what the Model computes."""
        return not self.reason


def check(model: Model, artifact: Artifact, inputs: tuple[Array, ...]) -> Parity:
    """Compare an artifact with the Model it was made from on real inputs; a failure names the first bad layer."""
    model, _ = adapted(model, artifact.target.numerics)
    limit = _limit(model, artifact)
    with Runner(artifact, 1) as runner:
        got = in_pieces(runner, inputs)
    worst = _worst(got, torch_runner(model)(*inputs))
    if worst.within(limit):
        return Parity(worst.error, worst.gain, limit)
    layer, place = _blame(model, artifact, inputs)
    numbers = f"error {worst.error:.2g}, gain {worst.gain:.4g}"
    return Parity(
        worst.error, worst.gain, limit, layer, f"the file does not compute what the Model computes ({numbers}): {place}"
    )


def difference(got: Array, wanted: Array) -> Difference:
    """How far `got` is from `wanted`; infinite on other shapes, and on NaN or infinity in different places."""
    if got.shape != wanted.shape:
        return Difference(float("inf"), float("nan"))
    if wanted.dtype.kind in "iub":
        return Difference(float(np.mean(got != wanted)) if wanted.size else 0.0, 1.0)
    got, wanted = got.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    finite = np.isfinite(got) & np.isfinite(wanted)
    if not (same | finite).all():
        return Difference(float("inf"), float("nan"))
    got, wanted = got[finite], wanted[finite]
    power = float(wanted @ wanted)
    if power == 0:
        return Difference(float(np.linalg.norm(got)), 1.0)
    return Difference(float(np.linalg.norm(got - wanted)) / power**0.5, float(got @ wanted) / power)


def first_difference(model: Model, artifact: Artifact, inputs: tuple[Array, ...]) -> str | None:
    """The first layer, in graph order, that this artifact's target gets wrong; None when it gets all of them right.

    A finished file has no inner values to look at, so the Model is exported once more with every float value as an
    output. That finds what the converter or the runtime does wrong, not what was done to one file afterwards.
    """
    probe, layers = _with_inner_outputs(model)
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        path = Path(folder) / f"probe{artifact.target.suffix}"
        made = export(probe, path, artifact.target, form=artifact.manifest["form"], dims=_dims(probe, inputs))
        with Runner(made, 1) as runner:
            got = runner(*inputs)
    limit, wanted = _limit(model, artifact), torch_runner(probe)(*inputs)
    bad = (name for name, g, w in zip(layers, got, wanted, strict=True) if not difference(g, w).within(limit))
    return next(bad, None)


def layer_ratios(model: Model, target: Target, inputs: tuple[Array, ...]) -> dict[str, float]:
    """Signal-to-noise ratio in dB, within ±200, of what an exported file gives at each layer on its runtime against
    the Model, by layer: of the first value after it that the runtime has, too. Layers without one are missing."""
    probe, layers = _with_inner_outputs(model)
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        path = Path(folder) / f"probe{target.suffix}"
        with Runner(export(probe, path, target, dims=_dims(probe, inputs)), 1) as runner:
            got = runner(*inputs)
    ratios = [_decibels(difference(g, w).error) for g, w in zip(got, torch_runner(probe)(*inputs), strict=True)]
    shown = dict(zip(layers, ratios, strict=True))
    found: dict[str, float] = {}
    for node in (n for n in probe.nodes if kind(n) == "contraction"):
        end = node
        while (name := probe.layer(end).removesuffix(".dequantize")) not in shown or kind(end) == "contraction":
            if name in shown or len(end.users) != 1 or end.op == "output":
                break
            (end,) = end.users
        if name in shown:
            found[probe.layer(node)] = shown[name]
    return found


def _decibels(error: float) -> float:
    """A relative error as a ratio of powers."""
    if not math.isfinite(error):
        return -_PERFECT
    return _PERFECT if error == 0 else max(-_PERFECT, min(_PERFECT, -20 * math.log10(error)))


def _blame(model: Model, artifact: Artifact, inputs: tuple[Array, ...]) -> tuple[str | None, str]:
    """The first bad layer, if there is one, and where the fault lies in words."""
    try:
        layer = first_difference(model, artifact, inputs)
    except PacklightError as error:
        return None, f"looking for the layer failed, {error}"
    if layer is None:
        return None, "exported afresh, every layer is right, so this file is not what packlight exports of this Model"
    return layer, f"first at layer {layer!r}"


def _worst(got: Sequence[Array], wanted: Sequence[Array]) -> Difference:
    if len(got) != len(wanted):
        return Difference(float("inf"), float("nan"))
    return max((difference(g, w) for g, w in zip(got, wanted, strict=True)), key=lambda d: (d.error, abs(d.gain - 1)))


def _limit(model: Model, artifact: Artifact) -> float:
    if model.is_quantized:
        return QUANTIZED_LIMIT
    return FLOAT_LIMIT if artifact.manifest["form"] == artifact.target.forms[0] else REDUCED_LIMIT


def _dims(model: Model, inputs: tuple[Array, ...]) -> dict[str, int]:
    return model.check_inputs([x.shape for x in inputs])


def _with_inner_outputs(model: Model) -> tuple[Model, list[str]]:
    probe = propagate(model.copy().eval())
    constant = {n for given, how in narrowed(probe).items() for n in (given, *how.nodes)}
    shown = [n for n in probe.nodes if n.op == "call_function" and n not in constant and _observable(n)]
    output = next(n for n in probe.nodes if n.op == "output")
    output.args = (tuple(shown),)
    probe.graph_module.recompile()
    layers = [probe.layer(n).removesuffix(".dequantize") for n in shown]
    probe.outputs = tuple(TensorSpec(f"probe_{i}", "float32", tuple(n.meta["val"].shape)) for i, n in enumerate(shown))
    probe.structure = {"list": list(range(len(shown)))}
    return probe, layers


def _observable(node: Node) -> bool:
    """A float value that the runtime also has: a low-precision kernel hides what lies between its ends, and asking
    for that would have another kernel run."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return False
    if kind(node) == "quantize":
        return "per_tensor" in str(node.target)
    following = [*node.users, *(second for first in node.users for second in first.users)]
    reads_quantized = any(kind(n) == "quantize" for n in node.all_input_nodes)
    return not any(kind(n) == "quantize" for n in (following if reads_quantized else node.users))

"""One question, how much does every layer matter, by seven measures; each answer is computed once and kept on disk.

All look at the network with batch norms folded, so that a layer's weight is the one that a runtime computes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.numerics import Format
from packlight.passes.batches import Samples
from packlight.passes.fold import fold
from packlight.passes.gradients import Loss
from packlight.passes.quantize.mixed import damage_table
from packlight.passes.sensitivity.cache import key_of, remembered
from packlight.passes.sensitivity.change import SQUARED, Changes, Distance
from packlight.passes.sensitivity.loss import Values, fisher, gradient, hessian
from packlight.passes.sensitivity.table import LayerValue, Sensitivities, weight_of, weighted
from packlight.passes.sensitivity.values import activations, inputs

MEASURES = {
    "removal": "{}, its weight zero",
    "gradient": "Σ |g · w|, change of the loss to first order",
    "fisher": "Σ g², trace of the empirical Fisher information",
    "hessian": "trace of the loss's Hessian, Hutchinson's estimate",
    "inputs": "mean square of what the layer reads",
    "activations": "outlier ratio: farthest value from the mean, in standard deviations",
    "quantization": "{}, its weight of 4 bits",
}
NEEDS_LOSS = ("gradient", "fisher", "hessian")


@dataclass(frozen=True)
class Measuring:
    """measure: one of MEASURES. probes: >= 1, random vectors of "hessian". seed: of them. form: of weights, of
    "quantization". distance: of outputs, of "removal" and "quantization"."""

    measure: str = "fisher"
    probes: int = 16
    seed: int = 0
    form: Format = field(default_factory=lambda: Format(per_channel=True))
    distance: Distance = SQUARED

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise PacklightError(f"no measure {self.measure!r}; choose {', '.join(MEASURES)}")
        if self.probes < 1:
            raise PacklightError(f"the Hessian's trace needs probes >= 1, got {self.probes}")


def sensitivity(
    model: Model,
    data: Samples,
    how: Measuring = Measuring(),
    loss: Loss | None = None,
    *,
    loss_name: str = "",
    cache: Path | None = None,
) -> Sensitivities:
    """Every linear layer and convolution of a float Model. data: batches; of one sample each for "fisher".

    loss: of flat outputs and targets, for the measures that need it; loss_name: by which its values are kept, "" for
    one that has no name, whose are not. cache: the folder. Raises PacklightError for a network without such layers,
    without data, quantized, or whose values are not finite.
    """
    if model.is_quantized:
        raise PacklightError(f"{model.name} is quantized; take its float version")
    if not data:
        raise PacklightError("sensitivity needs data; there is none")
    if how.measure in NEEDS_LOSS and loss is None:
        raise PacklightError(f"the measure {how.measure} needs a task with a loss and labelled data; take removal")
    model = fold(model).eval()
    layers = weighted(model)
    if not layers:
        raise PacklightError(f"{model.name} has no linear layer or convolution with a weight of its own")
    options = {
        "measure": how.measure, "probes": how.probes, "seed": how.seed, "form": asdict(how.form),
        "distance": how.distance.what, "loss": loss_name if how.measure in NEEDS_LOSS else "",
    }  # fmt: skip
    key = key_of(model, [(*x, y) for x, y in data], options)
    named = not (how.measure in NEEDS_LOSS and not loss_name)

    def make() -> Sensitivities:
        found = _values(model, layers, data, how, loss, cache)
        rows = tuple(_row(model, name, node, *found[name]) for name, node in layers.items())
        what = MEASURES[how.measure].format(how.distance.what)
        return Sensitivities(how.measure, what, sum(len(x[0]) for x, _ in data), rows)

    return remembered(cache if named else None, key, make, _read, Sensitivities.as_json)


def _values(
    model: Model, layers: Mapping[str, Node], data: Samples, how: Measuring, loss: Loss | None, cache: Path | None
) -> Values:
    batches = [x for x, _ in data]
    match how.measure:
        case "removal":
            zero = {node: {"": partial(torch.zeros_like, model.tensor(weight_of(node)))} for node in layers.values()}
            changes = Changes(model, batches, how.distance).single(zero)
            return {name: (changes[node][""], {}) for name, node in layers.items()}
        case "quantization":
            table = damage_table(model, list(layers.values()), how.form, batches, distance=how.distance, cache=cache)
            return {row.layer: (row.change[4], {f"{b} bits": v for b, v in row.change.items()}) for row in table}
        case "inputs":
            return inputs(model, layers, batches)
        case "activations":
            return activations(model, layers, batches)
    assert loss is not None
    if how.measure == "hessian":
        return hessian(model, layers, data, loss, how.probes, how.seed)
    return (gradient if how.measure == "gradient" else fisher)(model, layers, data, loss)


def _row(model: Model, name: str, node: Node, value: float, detail: Mapping[str, float]) -> LayerValue:
    numbers = [value, *detail.values()]
    if not all(torch.isfinite(torch.tensor(numbers, dtype=torch.float64))):
        raise PacklightError(f"{name}: what was measured is NaN or infinite; the network overflows on this data")
    return LayerValue(name, model.tensor(weight_of(node)).numel(), value, detail)


def _read(stored: Any) -> Sensitivities:
    layers = []
    for row in stored["layers"]:
        detail = {str(k): float(v) for k, v in row["detail"].items()}
        layers.append(LayerValue(str(row["layer"]), int(row["elements"]), float(row["value"]), detail))
    return Sensitivities(str(stored["measure"]), str(stored["what"]), int(stored["samples"]), tuple(layers))

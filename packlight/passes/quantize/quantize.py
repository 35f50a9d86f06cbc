"""Post-training quantization to the standard reference form.

The result is the same graph with `quantized_decomposed` quantize/dequantize pairs: activations per tensor,
weights per channel over their float masters, which stay trainable and are turned into integers at export
only. Scheme: Jacob et al. 2018 (arXiv 1712.05877), section 2, with per-channel weights as in Krishnamoorthi
2018 (arXiv 1806.08342), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model, Step, matching
from packlight.model.integers import settle_biases
from packlight.model.lineage import options_of
from packlight.model.numerics import Format, Numerics
from packlight.model.operators import load_quantized_operators, packet
from packlight.model.shapes import propagate
from packlight.passes.batches import batches_of, even_batches
from packlight.passes.fold import fold
from packlight.passes.quantize.bias import correct_biases, own_biases
from packlight.passes.quantize.bits import Bits, Look, chosen_bits
from packlight.passes.quantize.calibrate import RANGES, grid_of, observe
from packlight.passes.quantize.dynamic import dynamic_placement, insert_dynamic
from packlight.passes.quantize.equalize import equalize
from packlight.passes.quantize.gptq import gptq
from packlight.passes.quantize.groups import Scales, insert_blocks, weights_placement
from packlight.passes.quantize.pairs import insert_activation_pair, insert_constant_pair
from packlight.passes.quantize.placement import Placement, place
from packlight.passes.quantize.ranges import room_for_bias, weight_scales
from packlight.passes.quantize.rounding import NAMED, Rounding, learn_rounding
from packlight.passes.quantize.storage import storable, store
from packlight.passes.sensitivity.change import distance_for
from packlight.task import Task

_BATCH = 32
_MODES = ("static", "dynamic", "weights")
REDUCED = "weights have at most 7 bits: 8 saturate in int16 on processors without VNNI"


@dataclass(frozen=True)
class Quantization:
    """Options of the pass.

    ranges: of activations: "mse" (clip where that lowers the squared error), "minmax" (the extremes seen), "average"
    (their moving average over batches), "percentile" (all but a ten-thousandth of the values) or "entropy" (least
    information lost); weights are clipped by squared error, but not at all with "minmax". samples: >= 1, calibration
    samples to run. exclude: layer-name patterns (shell wildcards) that stay in float. bits: of weights and
    activations. rounding: "nearest", "gptq", "adaround" (layer by layer), "block" (block by block, activations
    quantized at random), or a Rounding of your own. mode: "static" (ranges of activations from calibration data),
    "dynamic" (taken at run time, where the target can; no data needed) or "weights" (activations stay in float, and
    linear layers' weights have the `scales` of blocks; no data needed to round to the nearest). equalize: even weights
    across layers first. correct_bias: take out of biases what quantizing does to the means of what layers hand on.
    """

    ranges: str = "mse"
    samples: int = 256
    exclude: tuple[str, ...] = ()
    bits: Bits = field(default_factory=Bits)
    rounding: str | Rounding = "nearest"
    mode: str = "static"
    scales: Scales = field(default_factory=Scales)
    equalize: bool = False
    correct_bias: bool = False

    @property
    def clips(self) -> bool:
        """Whether weights are clipped where that lowers the squared error."""
        return self.ranges != "minmax"

    def __post_init__(self) -> None:
        known = ("nearest", "gptq", *NAMED)
        if not isinstance(self.rounding, Rounding) and self.rounding not in known:
            raise PacklightError(f"rounding {self.rounding!r}: choose {', '.join(known)}")
        if self.ranges not in RANGES:
            raise PacklightError(f"ranges {self.ranges!r}: choose {', '.join(RANGES)}")
        if self.mode not in _MODES:
            raise PacklightError(f"mode {self.mode!r}: choose {', '.join(_MODES)}")
        if self.samples < 1:
            raise PacklightError(f"calibration needs samples >= 1, got {self.samples}")
        if self.scales.power_of_two and self.mode == "dynamic" and self.bits.activations is not None:
            raise PacklightError("scales taken at run time are no powers of two; choose mode static or weights")


def quantize(
    model: Model,
    task: Task,
    numerics: Numerics,
    options: Quantization = Quantization(),
    *,
    on_batch: Callable[[], None] = lambda: None,
    on_block: Callable[[int, int], None] = lambda done, of: None,
) -> Model:
    """A quantized copy of a Model, in eval mode: 8-bit as the target's numerics say, batch norm folded first.

    Calibrates on the task's calibration data, in the static mode. What stays in float, and why, is in the result's
    `notes`.
    Raises PacklightError for a model that is quantized already, has nothing to quantize, or whose
    calibration data is empty, does not fit or makes the network overflow.
    """
    if model.is_quantized:
        raise PacklightError(f"{model.name} is quantized already; start from its float version")
    load_quantized_operators()
    if options.mode == "weights":
        options = replace(options, bits=replace(options.bits, activations=None))
    model = equalize(model, options.exclude) if options.equalize else fold(model)
    placement, stored = _placed(model, numerics, options)
    calibration = _calibration(model, task, placement, options)
    look = Look(_weight_form(numerics.weight, options), calibration, options.clips, distance_for(task, model))
    bits, told = chosen_bits(model, placement, options.bits, look)
    if options.correct_bias:
        own_biases(model, [k.first for k in placement.kernels if k.group.weighted])
    whole = model.copy()
    _quantize_activations(model, placement, numerics, options, calibration, bits, on_batch)
    store(model, stored, replace(numerics.weight, bits=8, per_channel=True, power_of_two=options.scales.power_of_two),
          search=options.clips)  # fmt: skip
    uneven = _quantize_weights(model, placement, numerics, options, look.form, bits)
    model.tidy()
    left = _round(model, whole, calibration, options, on_block)
    if options.correct_bias:
        correct_biases(propagate(model), propagate(whole), calibration, on_layer=on_block)
    model.notes = (
        *model.notes,
        *(f"{layer} stays in float: {why}" for layer, why in placement.kept_float.items()),
        *uneven,
        *(f"{layer} is rounded to the nearest: gptq does not take it" for layer in left),
        *told,
        *([REDUCED] if options.bits.reduced and options.bits.activations and placement.kernels else []),
    )
    return settle_biases(model.tidy()).with_step(Step("quantize", options=options_of(options)))


def _placed(model: Model, numerics: Numerics, options: Quantization) -> tuple[Placement, dict[Node, Node]]:
    """What is quantized, and the constants that are stored (→ their readers). Raises PacklightError where that is
    nothing."""
    placement = place(model, numerics, options.exclude)
    if options.mode == "dynamic":
        placement = dynamic_placement(placement, numerics, model)
    if options.mode == "weights":
        placement = weights_placement(placement, options.scales, numerics)
    stored, kept = storable(model, numerics, matching(list(model.layers()), options.exclude))
    placement.kept_float |= kept
    if not placement.kernels and not stored:
        reasons = "; ".join(f"{k}: {v}" for k, v in list(placement.kept_float.items())[:3])
        raise PacklightError(f"nothing in {model.name} can be quantized for this target ({reasons or 'no layer fits'})")
    if options.bits.activations is None:
        placement.values = []
    return placement, stored


def _calibration(model: Model, task: Task, placement: Placement, options: Quantization) -> list[tuple[Tensor, ...]]:
    """Batches of inputs, where anything looks at them."""
    looks = placement.values or options.rounding != "nearest" or options.bits.mixed is not None or options.correct_bias
    return [x for x, _ in batches_of(model, task.data("calibration"), options.samples, _BATCH)] if looks else []


def _quantize_activations(
    model: Model, placement: Placement, numerics: Numerics, options: Quantization,
    calibration: Sequence[tuple[Tensor, ...]], bits: dict[Node, int], on_batch: Callable[[], None],
) -> None:  # fmt: skip
    observed = [v for v in placement.values if placement.root(v) is v]
    histograms = observe(model, observed, calibration, on_batch) if observed else {}
    for value in placement.values:
        root = placement.root(value)
        form = replace(numerics.activation, bits=bits[root], power_of_two=options.scales.power_of_two)
        scale, zero = grid_of(histograms[root], options.ranges, form)
        insert_activation_pair(model, value, placement.readers[value], float(scale), int(zero), form)
    if options.mode == "dynamic" and options.bits.activations is not None:
        insert_dynamic(model, placement.kernels, numerics)


def _quantize_weights(
    model: Model, placement: Placement, numerics: Numerics, options: Quantization, form: Format, bits: dict[Node, int]
) -> list[str]:
    """Put pairs behind the weights of kernels, in place; what is worth telling of them."""
    notes = []
    for kernel in placement.kernels:
        one = replace(form, bits=bits.get(kernel.first, 8))
        if options.mode == "weights" and packet(kernel.first) in numerics.blocked:
            notes.append(insert_blocks(model, kernel, one, options.clips))
        elif kernel.group.weighted:
            one = replace(one, symmetric=numerics.weight.symmetric)
            source: Any = kernel.first.args[1]
            scales = weight_scales(model.tensor(source), one, search=options.clips)
            scales = _with_room_for_bias(model, kernel.first, scales, one.power_of_two)
            zeros = torch.zeros(len(scales), dtype=torch.int64)
            insert_constant_pair(model, source, kernel.first, scales, zeros, one)
    return [note for note in notes if note]


def _rounding(options: Quantization) -> str | Rounding:
    """As asked for; scales that are powers of two are not learned with it."""
    how = options.rounding if isinstance(options.rounding, Rounding) else NAMED.get(options.rounding)
    return replace(how, scales=False) if how is not None and options.scales.power_of_two else options.rounding


def _weight_form(form: Format, options: Quantization) -> Format:
    """Of weights, but for their bits."""
    form = replace(form, power_of_two=options.scales.power_of_two)
    if options.mode != "weights":
        return form
    return replace(form, per_channel=True, group=options.scales.group, symmetric=options.scales.symmetric)


def _round(
    model: Model, whole: Model, calibration: Sequence[tuple[Tensor, ...]], options: Quantization,
    on_block: Callable[[int, int], None],
) -> list[str]:  # fmt: skip
    """Round the weights as asked for, in place; the layers that were left at the nearest."""
    how = _rounding(options)
    if how == "nearest":
        return []
    even = even_batches(calibration)
    if how == "gptq":
        return gptq(propagate(model), even, on_block=on_block)
    named = how if isinstance(how, Rounding) else NAMED[how]
    learn_rounding(propagate(model), propagate(whole), even, named, on_block)
    return []


def _with_room_for_bias(model: Model, layer: Node, scales: Tensor, power_of_two: bool) -> Tensor:
    """The weight's scales, coarser where the layer's bias would not fit into the accumulator's integers."""
    data, bias = layer.args[0], layer.args[2] if len(layer.args) > 2 else None
    if not isinstance(bias, Node) or not isinstance(data, Node) or packet(data) != "dequantize_per_tensor":
        return scales
    if len(bias.users) > 1 or isinstance(data.args[1], Node):
        return scales
    return room_for_bias(scales, model.tensor(bias).detach(), float(data.args[1]), power_of_two)  # type: ignore[arg-type]

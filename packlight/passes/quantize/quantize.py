"""Post-training quantization to the standard reference form.

The result is the same graph with `quantized_decomposed` quantize/dequantize pairs: activations per tensor,
weights per channel over their float masters, which stay trainable and are turned into integers at export
only. Scheme: Jacob et al. 2018 (arXiv 1712.05877), section 2, with per-channel weights as in Krishnamoorthi
2018 (arXiv 1806.08342), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
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
from packlight.passes.quantize.bits import Bits, chosen_bits
from packlight.passes.quantize.calibrate import RANGES, Histogram, observe
from packlight.passes.quantize.dynamic import dynamic_placement, insert_dynamic
from packlight.passes.quantize.gptq import gptq
from packlight.passes.quantize.placement import Kernel, Placement, place
from packlight.passes.quantize.ranges import affine, room_for_bias, weight_scales
from packlight.passes.quantize.rounding import NAMED, Rounding, learn_rounding
from packlight.passes.quantize.storage import storable, store
from packlight.task import Task

_BATCH = 32
REDUCED = "weights have at most 7 bits: 8 saturate in int16 on processors without VNNI"


@dataclass(frozen=True)
class Quantization:
    """Options of the pass.

    ranges: of activations: "mse" (clip where that lowers the squared error), "minmax" (the extremes seen), "average"
    (their moving average over batches), "percentile" (all but a ten-thousandth of the values) or "entropy" (least
    information lost); weights are clipped by squared error, but not at all with "minmax". samples: >= 1, calibration
    samples to run. exclude: layer-name patterns (shell wildcards) that stay in float. bits: of weights and
    activations. rounding: "nearest", "gptq", "adaround" (layer by layer), "block" (block by block, activations
    quantized at random), or a Rounding of your own. mode: "static" (ranges of activations from calibration data) or
    "dynamic" (taken at run time, where the target can; no data needed).
    """

    ranges: str = "mse"
    samples: int = 256
    exclude: tuple[str, ...] = ()
    bits: Bits = field(default_factory=Bits)
    rounding: str | Rounding = "nearest"
    mode: str = "static"

    def __post_init__(self) -> None:
        known = ("nearest", "gptq", *NAMED)
        if not isinstance(self.rounding, Rounding) and self.rounding not in known:
            raise PacklightError(f"rounding {self.rounding!r}: choose {', '.join(known)}")
        if self.ranges not in RANGES:
            raise PacklightError(f"ranges {self.ranges!r}: choose {', '.join(RANGES)}")
        if self.mode not in ("static", "dynamic"):
            raise PacklightError(f"mode {self.mode!r}: choose static or dynamic")
        if self.samples < 1:
            raise PacklightError(f"calibration needs samples >= 1, got {self.samples}")


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
    model = fold(model)
    placement = place(model, numerics, options.exclude)
    if options.mode == "dynamic":
        placement = dynamic_placement(placement, numerics, model)
    stored, kept = storable(model, numerics, matching(list(model.layers()), options.exclude))
    placement.kept_float |= kept
    if not placement.kernels and not stored:
        reasons = "; ".join(f"{k}: {v}" for k, v in list(placement.kept_float.items())[:3])
        raise PacklightError(f"nothing in {model.name} can be quantized for this target ({reasons or 'no layer fits'})")
    looks = bool(placement.values) or options.rounding != "nearest" or options.bits.mixed is not None
    data = batches_of(model, task.data("calibration"), options.samples, _BATCH) if looks else []
    calibration = [x for x, _ in data]
    search = options.ranges != "minmax"
    bits = chosen_bits(model, placement, options.bits, numerics.weight, calibration, search)
    whole = model.copy()
    if options.bits.activations is None:
        placement.values = []
    observed = [v for v in placement.values if placement.root(v) is v]
    histograms = observe(model, observed, calibration, on_batch) if observed else {}
    _insert_activations(model, placement, histograms, numerics.activation, options.ranges, bits)
    if options.mode == "dynamic" and options.bits.activations is not None:
        insert_dynamic(model, placement.kernels, numerics)
    store(model, stored, replace(numerics.weight, bits=8, per_channel=True), search=search)
    for kernel in placement.kernels:
        if kernel.group.weighted:
            form = replace(numerics.weight, bits=bits[kernel.first])
            _insert_weight(model, kernel, form, search)
    left = _round(propagate(model.tidy()), whole, calibration, options.rounding, on_block)
    placement_notes = [f"{layer} is rounded to the nearest: gptq does not take it" for layer in left]
    if options.bits.reduced and placement.kernels:
        placement_notes.append(REDUCED)
    model.notes = (
        *model.notes,
        *(f"{layer} stays in float: {why}" for layer, why in placement.kept_float.items()),
        *placement_notes,
    )
    return settle_biases(model.tidy()).with_step(Step("quantize", options=options_of(options)))


def _round(
    model: Model, whole: Model, calibration: Sequence[tuple[torch.Tensor, ...]], how: str | Rounding,
    on_block: Callable[[int, int], None],
) -> list[str]:  # fmt: skip
    """Round the weights as asked for, in place; the layers that were left at the nearest."""
    if how == "nearest":
        return []
    even = even_batches(calibration)
    if how == "gptq":
        return gptq(model, even, on_block=on_block)
    learn_rounding(model, propagate(whole), even, how if isinstance(how, Rounding) else NAMED[how], on_block)
    return []


def _insert_activations(
    model: Model, placement: Placement, histograms: dict[Node, Histogram], form: Format, how: str,
    bits: dict[Node, int],
) -> None:  # fmt: skip
    graph, ops = model.graph_module.graph, torch.ops.quantized_decomposed
    dtype = torch.int8 if form.signed else torch.uint8
    for value in placement.values:
        form = replace(form, bits=bits[placement.root(value)])
        low, high = histograms[placement.root(value)].range(how, form)
        scale, zero = affine(torch.tensor(low), torch.tensor(high), form)
        settings = (float(scale), int(zero), form.low, form.high, dtype)
        with graph.inserting_after(value):
            q = graph.call_function(ops.quantize_per_tensor.default, (value, *settings))
        with graph.inserting_after(q):
            dq = graph.call_function(ops.dequantize_per_tensor.default, (q, *settings))
        q.meta["layer"], dq.meta["layer"] = f"{model.layer(value)}.quantize", f"{model.layer(value)}.dequantize"
        for reader in placement.readers[value]:
            reader.replace_input_with(value, dq)


def _insert_weight(model: Model, kernel: Kernel, form: Format, search: bool) -> None:
    graph, ops = model.graph_module.graph, torch.ops.quantized_decomposed
    source = kernel.first.args[1]
    assert isinstance(source, Node)
    name, layer = str(source.target), model.layer(kernel.first)
    scales = weight_scales(model.tensor(source), form, search=search)
    scales = _with_room_for_bias(model, kernel.first, scales)
    model.set_tensor(f"{name}_scale", scales)
    model.set_tensor(f"{name}_zero_point", torch.zeros(len(scales), dtype=torch.int64))
    with graph.inserting_before(kernel.first):
        scale, zero = graph.get_attr(f"{name}_scale"), graph.get_attr(f"{name}_zero_point")
        settings = (scale, zero, 0, form.low, form.high, torch.int8)
        q = graph.call_function(ops.quantize_per_channel.default, (source, *settings))
        dq = graph.call_function(ops.dequantize_per_channel.default, (q, *settings))
    q.meta["layer"], dq.meta["layer"] = f"{layer}.weight.quantize", f"{layer}.weight.dequantize"
    kernel.first.replace_input_with(source, dq)


def _with_room_for_bias(model: Model, layer: Node, scales: torch.Tensor) -> torch.Tensor:
    """The weight's scales, coarser where the layer's bias would not fit into the accumulator's integers."""
    data, bias = layer.args[0], layer.args[2] if len(layer.args) > 2 else None
    if not isinstance(bias, Node) or not isinstance(data, Node) or packet(data) != "dequantize_per_tensor":
        return scales
    if len(bias.users) > 1 or isinstance(data.args[1], Node):
        return scales
    return room_for_bias(scales, model.tensor(bias).detach(), float(data.args[1]))  # type: ignore[arg-type]

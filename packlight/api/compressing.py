"""Networks made smaller and faster: Model → Model, and what tells where that hurts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from packlight import targets
from packlight.api.given import TargetLike, TaskLike, numerics_of, task_of
from packlight.api.opening import load
from packlight.errors import PacklightError
from packlight.files import cache_folder
from packlight.measure.machine import has_vnni
from packlight.measure.parity import layer_ratios
from packlight.measure.quality import workload_inputs
from packlight.model import Model, Step, patterns_of
from packlight.model.operators import packet
from packlight.passes.batches import batches_of, even_batches
from packlight.passes.codebooks import Codebooks, input_moments
from packlight.passes.codebooks import share_weights as share_in_tables
from packlight.passes.fold import fold as fold_batch_norms
from packlight.passes.processing import Processing
from packlight.passes.processing import build_in as build_in_with
from packlight.passes.prune import Groups, Pruning
from packlight.passes.prune import prunable as groups_of
from packlight.passes.quantize import (
    Bits,
    LayerError,
    Mended,
    Quantization,
    Rounding,
    Scales,
    float_format,
    layer_errors,
    mend,
    refuse_others,
    store_floats,
)
from packlight.passes.quantize import quantize as quantize_for
from packlight.passes.renorm import renorm as renorm_on
from packlight.passes.sensitivity.table import Sensitivities
from packlight.search.bits import parse_drop, within_drop
from packlight.search.pruning.gradual import Gradual
from packlight.search.pruning.prune import prune_with
from packlight.search.sensitivity import sensitivity as measured_sensitivity
from packlight.search.tune import Tuned
from packlight.search.tune import tune_placement as tune_with
from packlight.task import Task
from packlight.train import Distillation, Fit, Progress


def fold(model: Model) -> Model:
    """Fold every batch norm into the layer before it; outputs stay the same to rounding."""
    return fold_batch_norms(model)


def build_in(
    model: Model,
    task: TaskLike | None = None,
    *,
    dtype: str = "uint8",
    layout: str = "NCHW",
    scale: float | Sequence[float] | None = None,
    shift: float | Sequence[float] | None = None,
    after: str = "",
) -> Model:
    """A copy of a Model that takes what a camera gives and gives what a program wants: the last step before export.

    dtype: of the first input, "uint8", "int8" or "float32". layout: of four axes, "NCHW" or "NHWC". scale, shift:
    x · scale + shift is what the network was trained on, a number or one a channel; default: what the task's
    preprocessing says, else 1 and 0. after: "softmax", "sigmoid" or "argmax" of the first output over axis 1.
    """
    facts = task_of(task).preprocessing if task is not None else {}
    chosen = {"scale": facts.get("scale", 1.0) if scale is None else scale,
              "shift": facts.get("shift", 0.0) if shift is None else shift}  # fmt: skip
    numbers = {k: float(v) if isinstance(v, int | float) else tuple(map(float, v)) for k, v in chosen.items()}
    return build_in_with(model, Processing(dtype, layout, after=after, **numbers))


def renorm(model: Model, task: TaskLike, *, samples: int = 512) -> Model:
    """A copy whose batch norms have the statistics of the task's calibration data, for networks whose own are of other
    data. Before batch norms are folded, so before `quantize`. samples: >= 1, of that data, 128 a batch."""
    if not any(packet(n) == "batch_norm" for n in model.nodes):
        raise PacklightError(f"{model.name} has no batch norm; where it was folded, start from the network before that")
    if samples < 1:
        raise PacklightError(f"statistics need samples >= 1, got {samples}")
    batches = [x for x, _ in batches_of(model, task_of(task).data("calibration"), samples, 128)]
    return renorm_on(model, batches).with_step(Step("renorm", options={"samples": samples}))


def prunable(model: Model) -> Groups:
    """What can be cut of a Model: families of channels, heads and widths, and what is never cut and why."""
    return groups_of(model)


def prune(
    model: Model,
    task: TaskLike | None = None,
    *,
    keep: float | None = None,
    options: Pruning = Pruning(),
    compensate: bool | None = None,
    samples: int = 512,
    finetune: Fit | None = None,
    steps: int = 1,
    draws: int = 1,
    blocks: int = 0,
    gradual: Gradual | None = None,
    target: str | targets.Target = "onnxruntime",
    distillation: Distillation | None = Distillation(),
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Model:
    """A copy of a Model with fewer channels and heads, every cut of it proven.

    keep: in (0, 1], overrules that of `options` (0.5 of the parameters by default). compensate: whether what stays
    takes over what went by least squares on the task's calibration data; None: where there is such. samples: of it.
    finetune: train after every one of `steps` cuts, each for its share; with `distillation` (not None) after the
    network as it was. draws: with the random score, the best of so many. blocks: residual blocks that are left out
    first, those that change least on the task's data. gradual: instead of cutting before it trains, let channels
    fade in that one run and cut them at its end, without least squares. target: where latency is measured, when the
    options say by="latency". What could not be proven, and was left as it was, is in the result's `notes`.
    """
    chosen = options if keep is None else replace(options, keep=keep)
    return prune_with(
        model, None if task is None else task_of(task), chosen, compensate=compensate, samples=samples,
        options_fit=finetune, steps=steps, draws=draws, blocks=blocks, gradual=gradual, target=targets.get(target),
        distillation=distillation, on_stage=on_stage, on_step=on_step,
    )  # fmt: skip


def quantize(
    model: Model,
    task: TaskLike | None = None,
    *,
    target: TargetLike | Sequence[TargetLike] = "onnxruntime",
    ranges: str = "mse",
    samples: int = 256,
    exclude: str | Sequence[str] = (),
    mode: str = "static",
    weights: int | str = 8,
    activations: int | None = 8,
    ends: int = 8,
    layers: Mapping[str, int] | None = None,
    mixed: float | str | None = None,
    budget: str | None = None,
    rounding: str | Rounding = "nearest",
    group: int | None = 32,
    symmetric: bool = True,
    scales: str = "float",
    equalize: bool = False,
    correct_bias: bool = False,
    reduce_range: bool | None = None,
    on_batch: Callable[[], None] = lambda: None,
    on_block: Callable[[int, int], None] = lambda done, of: None,
) -> Model:
    """A quantized Model for a target, or for each of several, int8 unless told otherwise, calibrated on the task's
    calibration data.

    ranges: "mse" or "minmax". samples: calibration samples to run. exclude: layer-name patterns (shell
    wildcards) that stay in float. mode: "static", or "dynamic" for ranges of activations that are taken at run time,
    which needs no data, or "weights": activations stay in float, and weights of linear layers have a scale for every
    `group` along the input axis (16, 32, 64, 128, 256; None: one an output), without zero points if `symmetric`; needs
    no data, but for a rounding or `mixed`. weights, activations: bits, 2 to 8; activations=None leaves them in float;
    weights="fp8-e4m3", "fp8-e5m2", "bf16" or "fp16", with mode="weights": stored in such floats.
    ends: bits of the first and last layers' weights and inputs, where that is more. layers: bits of weights by
    layer-name pattern. mixed: bits a weight in the mean, given to layers as measured; or "global", "local" or "mixed"
    with a budget: "200kB" of weights, "4bits" a weight, or "drop<=0.5points" on validation data, measured. rounding:
    "nearest", "gptq", "adaround", "block", or a Rounding. scales: "float", or "power-of-two" for those of weights and
    of activations. equalize: even weights across layers first. correct_bias: take out of biases what quantizing does to
    the means of what layers hand on. reduce_range: at most 7 bits of a weight, which cannot saturate on x86 processors
    without VNNI; None: where this machine has none. What stays in float otherwise, and why, and which layers have how
    many bits is in the result's `notes`.
    """
    if scales not in ("float", "power-of-two"):
        raise PacklightError(f"scales {scales!r}: choose float or power-of-two")
    numerics, data = numerics_of(target), Task("none") if task is None else task_of(task)
    if isinstance(weights, str):
        form = float_format(weights, numerics)
        refuse_others(form, mode, {
            "layers": bool(layers), "mixed": mixed is not None, "budget": budget is not None,
            "rounding": rounding != "nearest", "symmetric": not symmetric, "scales": scales != "float",
            "equalize": equalize, "correct_bias": correct_bias, "reduce_range": bool(reduce_range),
        })  # fmt: skip
        return store_floats(model, form, patterns_of(exclude))
    most = parse_drop(budget) if budget is not None else None
    given = "8bits" if most is not None and isinstance(mixed, str) else budget  # each try has its own
    reduced = has_vnni() is False if reduce_range is None else reduce_range
    bits = Bits(weights, activations, ends, dict(layers or {}), mixed, given, reduced)
    options = Quantization(
        ranges, samples, patterns_of(exclude), bits, rounding, mode,
        Scales(group, symmetric, scales == "power-of-two"), equalize, correct_bias,
    )  # fmt: skip
    if most is not None:
        return within_drop(model, data, numerics, options, most, on_batch=on_batch, on_block=on_block)
    return quantize_for(model, data, numerics, options, on_batch=on_batch, on_block=on_block)


def share_weights(
    model: Model,
    task: TaskLike | None = None,
    *,
    bits: int | None = None,
    kind: str = "kmeans",
    scope: str = "layer",
    group: int = 1,
    init: str = "linear",
    seed: int = 0,
    exclude: str | Sequence[str] = (),
    layers: Mapping[str, int] | None = None,
    samples: int = 256,
) -> Model:
    """A copy of a Model whose every weight is one of 2^bits values: it is small, and computes in float.

    bits: 1 to 8, 4 where nothing else is said. kind: "kmeans" (a table), "powers" (0 and powers of two), "binary",
    "ternary". scope: of a table: "global", "layer" or "channel" (`group` output channels). init, seed: how k-means
    starts: "linear", "density" or "random". exclude: layer-name patterns (shell wildcards) that stay in float. layers:
    bits by layer-name pattern. task: with it, k-means weighs errors by the second moments of what the layers read, on
    `samples` of its calibration data. What stays in float, and why, is in the result's `notes`.
    """
    options = Codebooks(bits, kind, scope, group, init, seed, patterns_of(exclude), dict(layers or {}))
    if task is None:
        return share_in_tables(model, options)
    if kind != "kmeans":
        raise PacklightError(f"{kind} weights take no data; leave the task out")
    if samples < 1:
        raise PacklightError(f"calibration needs samples >= 1, got {samples}")
    data = batches_of(model, task_of(task).data("calibration"), samples, 32)
    return share_in_tables(model, options, input_moments(model, [x for x, _ in data]))


def tune_placement(
    model: Model,
    task: TaskLike,
    *,
    target: str | targets.Target = "onnxruntime",
    exclude: str | Sequence[str] = (),
    samples: int = 256,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """Quantize to int8, and leave in float the layers and regions that run slower in int8 on this machine.

    The task's workload says what is timed. The result has the Model, `excluded` with a reason a layer, and the ratio of
    its latency to plain int8's. Nothing is excluded unless the whole file is faster so, by a 95 % interval.
    """
    chosen = task_of(task)
    folded = fold_batch_norms(model)
    split = "validation" if chosen.validation is not None else "calibration"
    inputs = workload_inputs(chosen, split, folded.fixed_batch or chosen.workload.batch)
    options = Quantization(samples=samples, exclude=patterns_of(exclude), bits=Bits(reduced=has_vnni() is False))
    return tune_with(folded, chosen, targets.get(target), options, inputs, on_stage=on_stage)


def compare_layers(
    model: Model,
    quantized: Model,
    task: TaskLike,
    *,
    samples: int = 64,
    target: str | targets.Target | None = None,
) -> list[LayerError]:
    """Where a quantized Model departs from the float one that it was made of: signal-to-noise ratios of every layer
    with quantized weights, worst first, with the likely cause and what to try. samples: of the task's calibration data.
    target: also run its file there, and compare what that gives at each layer with the quantized Model.
    """
    batches = _calibration(model, task, samples)
    found = layer_errors(model, quantized, batches)
    if target is None:
        return found
    on_runtime = layer_ratios(quantized, targets.get(target), tuple(x.numpy() for x in batches[0]))
    return [replace(e, file=on_runtime.get(e.layer)) for e in found]


def mend_layers(
    model: Model,
    quantized: Model,
    task: TaskLike,
    *,
    target: str | targets.Target = "onnxruntime",
    samples: int = 64,
    rounds: int = 5,
) -> Mended:
    """Quantize a float Model anew as `quantized` was, with a remedy for each layer that does harm: more bits, other
    ranges, or float, until every layer is sound, for at most so many rounds. samples: of calibration data to judge by.
    """
    batches = _calibration(model, task, samples)
    return mend(model, quantized, task_of(task), targets.get(target).numerics, batches, rounds)


def _calibration(model: Model, task: TaskLike, samples: int) -> list[tuple[Tensor, ...]]:
    data = batches_of(model, task_of(task).data("calibration"), samples, 32)
    return even_batches([x for x, _ in data])


def sensitivity(
    model: Model,
    task: TaskLike,
    *,
    measure: str = "fisher",
    samples: int = 256,
    target: str | targets.Target = "onnxruntime",
    probes: int = 16,
    seed: int = 0,
    cache: bool | str | os.PathLike[str] = True,
) -> Sensitivities:
    """How much every linear layer and convolution matters, batch norms folded.

    measure: "removal" (what the outputs lose without the weight), "gradient", "fisher" or "hessian" (of the task's loss
    on training data), "inputs" or "activations" (statistics of what layers read and give), "quantization" (what 2 to 8
    bits of the weight, in the target's format, do to the outputs). samples: of training data for the loss, of
    calibration data otherwise. probes, seed: of "hessian". cache: the answer is kept in a folder, by default
    $PACKLIGHT_CACHE or the user's cache folder; False keeps nothing.
    """
    return measured_sensitivity(
        load(model), task_of(task), measure, samples, targets.get(target).numerics.weight, probes, seed,
        (cache_folder() if cache is True else Path(cache)) if cache else None,
    )  # fmt: skip

"""The public functions: each joins rooms that do not know one another. What README shows is stable."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from packlight import codec, targets
from packlight.environments import own_environments
from packlight.errors import PacklightError
from packlight.files import cache_folder
from packlight.measure import Measurement
from packlight.measure.devices import Device
from packlight.measure.devices import device as find_device
from packlight.measure.latency import compare as compare_times
from packlight.measure.latency import thread_counts, throughput
from packlight.measure.machine import cores, has_vnni
from packlight.measure.parity import check as check_parity
from packlight.measure.parity import layer_ratios
from packlight.measure.quality import evaluate, evaluate_artifact, workload_dims, workload_inputs
from packlight.measure.roofline import Estimate
from packlight.measure.roofline import estimate as roofline
from packlight.model import Model, Step, patterns_of
from packlight.model.file import SUFFIX
from packlight.model.numerics import Numerics, common
from packlight.model.operators import packet
from packlight.model.plausible import plausible_inputs
from packlight.model.shapes import with_shapes
from packlight.passes.batches import batches_of, even_batches
from packlight.passes.codebooks import Codebooks, as_tables, input_moments
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
from packlight.search.budget import Budget, parse_time
from packlight.search.comparison import Comparison, compare_targets
from packlight.search.compress import compress as search
from packlight.search.distill import Distilled
from packlight.search.distill import distill as distill_beside
from packlight.search.packing import Packed, pack_as_is, pack_at, pack_within
from packlight.search.packing_trained import deep_compression as classical
from packlight.search.packing_trained import pack_trained
from packlight.search.pruning.gradual import Gradual
from packlight.search.pruning.prune import prune_with
from packlight.search.result import Result
from packlight.search.sensitivity import sensitivity as measured_sensitivity
from packlight.search.transfer import TransferResult
from packlight.search.transfer import transfer as transfer_in_modes
from packlight.search.tune import Tuned
from packlight.search.tune import tune_placement as tune_with
from packlight.sources import (
    SOURCE_ENVIRONMENTS,
    from_hugging_face,
    from_keras,
    from_module,
    from_onnx,
    from_pt2,
    from_tensorflow,
    from_torchscript,
    is_tensorflow,
    load_weights,
)
from packlight.targets import Artifact
from packlight.targets.manifest import manifest_path
from packlight.task import Task
from packlight.train import Distillation, Feature, Fit, Hook, Progress, Transfer, fit

Source = Model | nn.Module | str | os.PathLike[str]
TaskLike = Task | str | os.PathLike[str]
TargetLike = str | targets.Target

_FACTORY = "module:factory, a function of yours that returns (module, example_inputs)"
_KERAS = (".keras", ".h5", ".hdf5")
_SCRIPTS = (".pt", ".pth", ".ts", ".torchscript")
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def load(
    source: Source,
    example_inputs: Any = None,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    constants: Mapping[str, Any] | None = None,
    operators: Mapping[tuple[str, str], Callable[..., Any]] | None = None,
    name: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> Model:
    """A trained network as a Model.

    source: an nn.Module (with example_inputs: a tensor, a tuple, or a dict of keyword arguments), a saved
    `.plm` or `.plt` file, an `.onnx` file, a `.pt2` file of torch.export.save, a Keras file
    (`.keras`, whole-model `.h5`; example_inputs where it leaves sizes open), TorchScript (with example_inputs),
    "module:factory", a function of yours that returns a module and its example inputs, or a folder of Hugging Face
    (config.json and model.safetensors), or its id where it is in the local cache, or a SavedModel folder or `.tflite`
    file (`packlight targets install tensorflow` first).
    dynamic: input name → {axis: dimension name}; default: axis 0 of every input is "batch", and what an ONNX file says.
    constants: inputs of an ONNX file that the Model holds instead, by name. operators: (domain, operator) → a function
    that translates an ONNX operator of yours (docs/sources.md). weights: a .safetensors file or a state dict (.pt) for
    the factory's module, every tensor of it. trust: open a `.pt2` file with torch.export.load, which runs code that the
    file holds; else nothing in it is run.
    """
    if weights is not None and not (isinstance(source, str) and _is_factory(source)):
        raise PacklightError(f"weights go with module:factory, which makes the network; got {str(source)[:80]}")
    if isinstance(source, Model):
        return source
    if isinstance(source, nn.Module):
        if example_inputs is None:
            raise PacklightError("a torch module needs example_inputs: load(module, torch.zeros(1, 3, 224, 224))")
        return from_module(source, example_inputs, dynamic=dynamic, name=name)
    if not isinstance(source, str | os.PathLike):
        raise PacklightError(
            f"a network is a torch module, a {SUFFIX}, {codec.SUFFIX}, .onnx or .pt2 file or {_FACTORY}; "
            f"got {type(source).__name__}"
        )
    path = Path(source)
    if not path.exists() and _is_factory(str(source)):
        module, example = _call_factory(str(source))
        if weights is not None:
            if not isinstance(module, nn.Module):
                raise PacklightError(f"weights go into a torch module; {source} makes a {type(module).__name__}")
            load_weights(module, Path(weights))
        return load(module, example_inputs if example is None else example, dynamic=dynamic, name=name)
    if is_tensorflow(path):
        return from_tensorflow(
            path, example_inputs, dynamic=dynamic, constants=constants, operators=operators, name=name
        )
    if not path.is_file():
        found = from_hugging_face(path, example_inputs, dynamic=dynamic, name=name)
        if found is not None:
            return found
    elif path.suffix.lower() in _SCRIPTS:
        found = from_torchscript(path, example_inputs, dynamic=dynamic, name=name)
        if found is not None:
            return found
    _check_openable(path)
    if path.suffix.lower() == ".onnx":
        return from_onnx(path, example_inputs, dynamic=dynamic, constants=constants, operators=operators, name=name)
    if path.suffix.lower() in _KERAS:
        return from_keras(path, example_inputs, dynamic=dynamic, name=name)
    if path.suffix.lower() == ".pt2":
        return from_pt2(path, trust=trust, dynamic=dynamic, name=name)
    return codec.load_packed(path) if path.suffix.lower() == codec.SUFFIX else Model.load(path)


def _check_openable(path: Path) -> None:
    kind, wanted = path.suffix.lower(), f"give a {SUFFIX}, {codec.SUFFIX}, .onnx or .pt2 file, or {_FACTORY}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise PacklightError(f"{path} {what}; {wanted}")
    if kind == ".pb":
        raise PacklightError(f"{path}: .pb files are opened with the SavedModel folder that they stand in; give that")
    if kind in _WEIGHTS:
        raise PacklightError(f"{path}: {kind} files hold weights, and code that is not run; give {_FACTORY}, "
                             f"and weights={path.name!r}")  # fmt: skip


def _is_factory(text: str) -> bool:
    module, colon, function = text.partition(":")
    return bool(colon) and function.isidentifier() and all(p.isidentifier() for p in module.split("."))


def _call_factory(text: str) -> tuple[Any, Any]:
    """Run the user's `module:function`, found as Python finds modules, the current folder first."""
    module, _, function = text.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), function)()
    except PacklightError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code runs in there: anything can be raised
        raise PacklightError(f"{text} failed: {type(error).__name__}: {error}") from error
    if isinstance(made, Model | nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made
    raise PacklightError(f"{text} must return a torch module and its example inputs, got {type(made).__name__}")


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
    facts = _task(task).preprocessing if task is not None else {}
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
    batches = [x for x, _ in batches_of(model, _task(task).data("calibration"), samples, 128)]
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
        model, None if task is None else _task(task), chosen, compensate=compensate, samples=samples,
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
    numerics, data = _numerics(target), Task("none") if task is None else _task(task)
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
    data = batches_of(model, _task(task).data("calibration"), samples, 32)
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
    chosen = _task(task)
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
    return mend(model, quantized, _task(task), targets.get(target).numerics, batches, rounds)


def _calibration(model: Model, task: TaskLike, samples: int) -> list[tuple[Tensor, ...]]:
    data = batches_of(model, _task(task).data("calibration"), samples, 32)
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
        load(model), _task(task), measure, samples, targets.get(target).numerics.weight, probes, seed,
        (cache_folder() if cache is True else Path(cache)) if cache else None,
    )  # fmt: skip


def finetune(
    model: Model,
    task: TaskLike,
    *,
    epochs: float | None = None,
    learning_rate: float | None = None,
    teacher: Model | Callable[..., Any] | None = None,
    distillation: Distillation = Distillation(),
    options: Fit = Fit(),
    hooks: Sequence[Hook] = (),
    checkpoint: str | Path | None = None,
    log: str | Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Model:
    """Train a copy of a Model on the task's training data, with distillation when a teacher is given. A quantized
    Model is trained through its quantizers.

    epochs and learning_rate overrule those of `options` (1 and 0.01 by default). hooks: what else joins the run
    (packlight.train). checkpoint: a file that a killed run resumes from. log: a JSON-lines file of losses and scores.
    """
    chosen = replace(
        options, epochs=options.epochs if epochs is None else epochs,
        learning_rate=options.learning_rate if learning_rate is None else learning_rate,
    )  # fmt: skip
    return fit(
        model, _task(task), chosen, teacher=teacher, distillation=distillation, hooks=hooks, checkpoint=checkpoint,
        log=log, on_step=on_step,
    )  # fmt: skip


def distill(
    teacher: Model,
    task: TaskLike,
    *,
    student: str | Model = "resnet8",
    width: float = 1.0,
    options: Fit = Fit(),
    distillation: Distillation = Distillation(),
    features: Sequence[Feature] = (),
    control: bool = True,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Distilled:
    """Train a small network after a large one, and beside it the control: the same without the teacher.

    student: a Model, or one of packlight's by name (`packlight.students.names()`) with a width, made for the teacher's
    inputs and classes from the seed in `options`. features: layers to follow as well. control: False saves its time.
    """
    made = student if isinstance(student, Model) else _student(student, width, teacher, options.seed)
    return distill_beside(
        made, teacher, _task(task), options, distillation,
        features=features, control=control, on_stage=on_stage, on_step=on_step,
    )  # fmt: skip


def _student(name: str, width: float, teacher: Model, seed: int) -> Model:
    from packlight import students

    shape = teacher.outputs[0].shape
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise PacklightError(f"{teacher.name} gives {list(shape)}, not class scores; bring a student Model of your own")
    example = teacher.example_inputs()
    module = students.make(name, shape[1], tuple(example[0].shape[1:]), width, seed)
    return from_module(module, example, name=f"{name}-{width:g}")


def transfer(
    model: Model,
    task: TaskLike,
    *,
    classes: int | None = None,
    modes: Sequence[str] = ("extract", "adapt", "unfreeze", "full"),
    time_limit: str | float | None = None,
    options: Transfer = Transfer(),
    on_stage: Callable[[str], None] = lambda text: None,
) -> TransferResult:
    """Give a classifier a new head for the task's classes, train it in several modes, and return what does best on
    the validation data, with the comparison.

    classes: as many as the training targets have when not given. modes: "extract" (frozen backbone), "adapt"
    (low-rank adapters), "unfreeze" (layer by layer) and "full". time_limit: e.g. "20m", shared out among them.
    """
    limit = parse_time(time_limit)
    return transfer_in_modes(
        model, _task(task), classes, modes=modes, time_limit_s=limit, options=options, on_stage=on_stage
    )


def export(
    model: Model,
    path: str | Path,
    *,
    target: str | targets.Target = "onnxruntime",
    form: str | None = None,
    task: TaskLike | None = None,
    dims: Mapping[str, int] | None = None,
) -> Artifact:
    """Write a Model as a file for a runtime, with a manifest beside it; batch norms are folded first.

    path: the file, or with no suffix a folder, which also gets the smallest programs that run the file. form: how
    float weights are stored, one of the target's forms; default its first. task: whose preprocessing the manifest
    states, and whose workload's batch size a file has that takes one size only. dims: sizes of dynamic dimensions for
    such a file, e.g. {"batch": 8}.
    """
    chosen = _task(task) if task is not None else None
    sizes = {**(workload_dims(model, chosen) if chosen else {}), **(dims or {})}
    facts = chosen.preprocessing if chosen else None
    folded, on = fold_batch_norms(model), targets.get(target)
    if Path(path).suffix:
        return targets.export(folded, path, on, form=form, dims=sizes, preprocessing=facts)
    name = re.sub(r"[^\w-]+", "_", model.name) or "model"
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        file = Path(folder) / f"{name}{on.suffix}"
        return targets.export(folded, file, on, form=form, dims=sizes, preprocessing=facts).save(
            path, companions=model.files
        )


def pack(
    model: Model,
    path: str | Path,
    task: TaskLike | None = None,
    *,
    budget: str | None = None,
    price: float | None = None,
    mode: str = "small",
    exclude: str | Sequence[str] = (),
    samples: int = 2048,
    judged: int = 5000,
    finetune: Fit | None = None,
    teacher: Model | None = None,
    checkpoint: str | Path | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Packed:
    """Write a Model as a `.plt` file, the smallest download of it; `unpack` or `load` gives back what was packed.

    budget: None keeps every bit of every tensor; "drop<=0.1points" or "drop<=0.5%" (of the quality) rounds weights
    and biases, batch norms folded, so that the file is as small as can be found whose drop on the task's validation
    data is within it. price: instead of a budget, the loss that one bit is worth, > 0; needs no task, but then all
    weights count alike. mode: "small", or "fast" to open tens of times faster from a larger file. exclude:
    layer-name patterns that are not rounded. samples: of training (or else calibration) inputs that tell what each
    weight matters, labels are not looked at. judged: validation samples that each try is scored on.

    finetune: with a budget, weights are also pruned, and the rest is trained as this says, to answer as the network
    did; some five shares of the weights are tried, each a training of its own, and the smallest file of all is kept.
    Layers that are excluded are not pruned, but trained along. teacher: a better network of the same task, whose
    answers training follows instead of the network's own; the budget stays of the network. checkpoint: beginning of
    the names of files, one a share, that a killed training resumes from.
    """
    modes = {coder.name.lower(): coder for coder in codec.Coder}
    if mode not in modes:
        raise PacklightError(f"mode {mode!r}: choose {' or '.join(modes)}")
    path, coder, patterns = Path(path), modes[mode], patterns_of(exclude)
    if path.suffix != codec.SUFFIX:
        raise PacklightError(f"{path}: packed networks are {codec.SUFFIX} files")
    if budget is not None and (price is not None or task is None):
        raise PacklightError("a budget needs a task to measure the drop on, and takes the place of a price")
    if finetune is not None and budget is None:
        raise PacklightError("training prunes as far as a budget allows; give one, e.g. drop<=0.5points")
    if teacher is not None and finetune is None:
        raise PacklightError("a teacher is of training; give finetune, too")
    chosen = _task(task) if task is not None else None
    if budget is not None and chosen is not None and finetune is not None:
        return pack_trained(
            model, path, coder, chosen, budget, patterns, samples, judged, finetune, teacher,
            Path(checkpoint) if checkpoint else None, on_stage, on_step,
        )  # fmt: skip
    if budget is not None and chosen is not None:
        return pack_within(model, path, coder, chosen, budget, patterns, samples, judged, on_stage)
    if price is not None:
        return pack_at(model, path, coder, chosen, price, patterns, samples)
    if patterns:
        raise PacklightError("nothing is rounded without a budget or a price, so there is nothing to exclude")
    return pack_as_is(model, path, coder)


def deep_compression(
    model: Model,
    path: str | Path,
    task: TaskLike,
    *,
    keep: float = 0.1,
    bits: int | None = None,
    exclude: str | Sequence[str] = (),
    finetune: Fit = Fit(epochs=10, learning_rate=0.05),
    sharing: Fit = Fit(epochs=2, learning_rate=0.001),
    checkpoint: str | Path | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Packed:
    """The classical recipe of Han et al. 2016 (arXiv 1510.00149) as a `.plt` file, to compare with: pruning by
    magnitude with retraining, weights shared by k-means with tables that are trained on, positions as gaps, and fixed
    codes.

    keep: in (0, 1), the share of all weights that stays. bits: 1 to 8, of the tables; None: 8 of convolutions and 5 of
    other layers, as in section 5 there. exclude: layer-name patterns that are neither pruned nor shared. finetune,
    sharing: how the pruned network, and then its tables, are trained. checkpoint: beginning of the name of a file that
    a killed training, the first, resumes from. Where that paper has Huffman codes, rANS stands here, whose codes are
    never longer by more than its 16 bytes a tensor. Batch norms are folded after pruning.
    """
    path = Path(path)
    if path.suffix != codec.SUFFIX:
        raise PacklightError(f"{path}: packed networks are {codec.SUFFIX} files")
    return classical(
        model, path, _task(task), keep, bits, patterns_of(exclude), finetune, sharing,
        Path(checkpoint) if checkpoint else None, on_stage, on_step,
    )  # fmt: skip


def unpack(
    path: str | Path, out: str | Path, *, target: str | targets.Target = "onnxruntime", tables: bool = False
) -> Model | Artifact:
    """What a `.plt` file holds, as a `.plm` file or as a file for a runtime. The Model, or the Artifact.

    out: a `.plm` file, or what `export` takes. tables: weights of at most 256 different values as tables of them in
    the runtime's file, where the runtime has tables: a smaller file, the same numbers.
    """
    model = codec.load_packed(path)
    if Path(out).suffix == SUFFIX:
        model.save(out)
        return model
    if tables and not targets.get(target).numerics.tables:
        raise PacklightError(f"target {target!r} has no tables; unpack without them")
    return export(as_tables(model) if tables else model, out, target=target)


def convert(
    source: Source,
    path: str | Path,
    *,
    target: str | targets.Target = "onnxruntime",
    form: str | None = None,
    dims: Mapping[str, int] | None = None,
) -> Artifact:
    """Write any network that `load` opens as a file for a runtime, not compressed, and run it there beside the Model.

    path: the file. form, dims: as of `export`. Random inputs are compared; integers lie in the tables they look up.
    Raises PacklightError, and leaves no file, where the runtime gives other outputs, with the first layer that differs.
    """
    if not Path(path).suffix:
        raise PacklightError(f"{path}: name the file to write, such as {path}{targets.get(target).suffix}")
    model = with_shapes(load(source))
    artifact = export(model, path, target=target, form=form, dims=dims)
    inputs = tuple(t.numpy() for t in plausible_inputs(model, dict(dims or {})))
    parity = check_parity(fold_batch_norms(model), artifact, inputs)
    if not parity.ok:
        for name in artifact.manifest["files"]:
            (artifact.path.parent / name).unlink()
        manifest_path(artifact.path).unlink()
        raise PacklightError(f"{artifact.target.name} runs {model.name} wrongly: {parity.reason}")
    return artifact


def install_target(name: str, *, on_stage: Callable[[str], None] = lambda text: None) -> str:
    """Make the environment of its own that a target needs, or that of "tensorflow" for SavedModel folders and .tflite
    files (minutes); one line on what there is now. Raises PacklightError for a target that shares ours, with the line
    that installs it."""
    environment = name if name in SOURCE_ENVIRONMENTS else targets.get(name).environment
    if environment is None:
        raise PacklightError(f"{name} shares packlight's environment; run: {targets.get(name).install}")
    own_environments().make(environment, lambda which: on_stage(f"making the environment {which} (minutes)"))
    return f"{name} is installed"


def measure(
    artifact: Artifact | Model | str | Path,
    task: TaskLike,
    *,
    baseline: Artifact | str | Path | None = None,
    split: str = "test",
) -> dict[str, Measurement]:
    """Measure a file on its runtime: quality, latency, throughput, memory, size; against a baseline file also drop,
    agreement and ratios. A Model (or `.plm` file) is measured for quality only, in PyTorch.

    split: the data for quality, "test", "validation", "train" or "calibration", labelled.
    """
    task = _task(task)
    if not isinstance(artifact, Artifact | Model) and Path(artifact).suffix == SUFFIX:
        artifact = Model.load(artifact)
    if isinstance(artifact, Model):
        return {"quality": evaluate(artifact, task, split).measurement}
    mine = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    scores = evaluate_artifact(mine, task, split)
    measured = {"quality": scores.measurement}
    if baseline is not None:
        base = baseline if isinstance(baseline, Artifact) else Artifact.open(baseline)
        before = evaluate_artifact(base, task, split)
        measured |= {"drop_points": scores.drop_from(before), "agreement": scores.agreement_with(before),
                     "file_ratio": Measurement.exact(base.bytes / mine.bytes, "×")}  # fmt: skip
    inputs = workload_inputs(task, split, mine.fixed_batch or task.workload.batch)
    beside = [mine] if baseline is None else [base, mine]
    times = compare_times(beside, inputs, threads=task.workload.threads)[-1].as_measurements()
    if baseline is None:
        del times["latency_ratio"]
    rates = throughput(mine, inputs, thread_counts(cores()))
    measured |= times | {f"throughput_{n}_thread{'s' * (n > 1)}": rate for n, rate in rates.items()}
    return measured | {"file_bytes": Measurement.exact(mine.bytes, "bytes")}


def estimate(model: Model, device: str | Device, *, batch: int = 1, form: str = "float32") -> Estimate:
    """A lower bound of a Model's latency on a device that is not at hand, from its data sheet's peaks: an estimate, no
    measurement. device: a profile's name (`packlight estimate` lists them), a .yaml file of your own, or "here".
    batch: samples at once. form: "float32" or "float16"; quantized layers compute in int8 where the device does.
    """
    return roofline(fold_batch_norms(model), find_device(device) if isinstance(device, str) else device, batch, form)


def compare(
    model: Model,
    task: TaskLike,
    *,
    target: TargetLike | Sequence[TargetLike] = (),
    split: str = "test",
    exclude: str | Sequence[str] = (),
    on_stage: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """One float network on several runtimes: every form that each of them has, int8 with the same scales on all, made,
    checked against the Model, scored on the task's `split` and timed in one run.

    target: runtimes; default: all that are installed here. exclude: layer-name patterns that stay in float.
    """
    several = [target] if isinstance(target, str | targets.Target) else list(target)
    chosen = [targets.get(t) for t in several] or targets.installed()
    return compare_targets(model, _task(task), chosen, split=split, exclude=patterns_of(exclude), on_stage=on_stage)


def compress(
    model: Model,
    task: TaskLike,
    *,
    target: str | targets.Target = "onnxruntime",
    budget: str | Budget = "drop<=1%, latency:min",
    time_limit: str | float | None = None,
    exclude: str | Sequence[str] = (),
    prove: bool = False,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Result:
    """Find the smallest and fastest form of a Model that still does its job on a target.

    budget: limits and a goal, e.g. "drop<=0.3points, size<=500kB, latency:min"; `%` is relative to the float
    baseline. time_limit: e.g. "20m", after which no further form is tried. exclude: layer-name patterns that stay
    in float. prove: choose only forms that keep the budget with the bad end of every interval.
    Always returns: `result.best`, and `result.met`, `proven`, `reason`.
    """
    wanted = budget if isinstance(budget, Budget) else Budget.parse(budget)
    return search(
        model, _task(task), targets.get(target), wanted,
        exclude=exclude, prove=prove, time_limit=parse_time(time_limit), on_stage=on_stage,
    )  # fmt: skip


def _numerics(target: TargetLike | Sequence[TargetLike]) -> Numerics:
    """Of a target, or what all of several compute."""
    several = [target] if isinstance(target, str | targets.Target) else list(target)
    return common([targets.get(t).numerics for t in several])


def _task(task: TaskLike) -> Task:
    return task if isinstance(task, Task) else Task.named(os.fspath(task))

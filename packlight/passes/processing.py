"""Pre- and post-processing as part of the network, so that a file takes what a camera gives and gives what a program
wants: nothing is left to be written again, and got wrong, in another language on the device.

Before the network: bytes become x · scale + shift, channels move to where the network has them. After it: softmax,
sigmoid or the place of the largest. These are ordinary operators that run in float around the network, quantized or
not; what is inside stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model, Step
from packlight.model.lineage import options_of
from packlight.model.shapes import propagate
from packlight.model.spec import Dim, TensorSpec

_DTYPES = ("float32", "uint8", "int8")
_LAYOUTS = ("NCHW", "NHWC")
_AFTER = ("", "softmax", "sigmoid", "argmax")


@dataclass(frozen=True)
class Processing:
    """What goes before and after a network.

    dtype: that the first input is to have: "float32", "uint8" or "int8". layout: of a first input of four axes, "NCHW"
    (as in PyTorch) or "NHWC" (channels last, as cameras and mobile runtimes have them). scale, shift: x · scale + shift
    is what the network was trained on; a number, or one a channel. after: of the first output, over axis 1: "softmax",
    "sigmoid", "argmax" (int64, the axis gone), or "" for nothing.
    """

    dtype: str = "uint8"
    layout: str = "NCHW"
    scale: float | tuple[float, ...] = 1.0
    shift: float | tuple[float, ...] = 0.0
    after: str = ""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("dtype", self.dtype, _DTYPES), ("layout", self.layout, _LAYOUTS), ("after", self.after, _AFTER),
        ):  # fmt: skip
            if value not in allowed:
                raise PacklightError(f"{name} {value!r}: choose {', '.join(repr(a) for a in allowed)}")


def build_in(model: Model, options: Processing) -> Model:
    """A copy of a Model, in eval mode, with processing built in. Raises PacklightError where its first input is no
    float32, has another number of channels than scale or shift, or no channels to move."""
    model = model.copy().eval()
    _before(model, options)
    if options.after:
        _after(model, options.after)
    model.graph_module.recompile()
    return propagate(model.tidy()).with_step(Step("build_in", options=options_of(options)))


def _before(model: Model, options: Processing) -> None:
    spec = model.inputs[0]
    if spec.dtype != "float32":
        raise PacklightError(f"input {spec.name!r} is {spec}: only a float32 input can be made of bytes")
    if options.layout == "NHWC" and len(spec.shape) != 4:
        raise PacklightError(f"input {spec.name!r} is {spec}: only one of four axes has its channels moved")
    graph, aten = model.graph_module.graph, torch.ops.aten
    inner = next(n for n in model.nodes if n.op == "placeholder")
    readers = list(inner.users)
    after = next(n for n in model.nodes if n.op not in ("placeholder", "get_attr"))
    with graph.inserting_before(after):
        value: Node = inner
        if options.dtype != "float32":
            value = graph.call_function(aten.to.dtype, (value, torch.float32))
        if options.layout == "NHWC":
            value = graph.call_function(aten.permute.default, (value, [0, 3, 1, 2]))
        for operator, name, neutral in ((aten.mul.Tensor, "scale", 1.0), (aten.add.Tensor, "shift", 0.0)):
            given = getattr(options, name)
            if given != neutral:
                value = graph.call_function(operator, (value, _constant(model, spec, name, given)))
                value.meta["layer"] = f"{spec.name}.{name}"
    for reader in readers:
        reader.replace_input_with(inner, value)
    shape: tuple[Dim, ...] = spec.shape
    if options.layout == "NHWC":
        shape = (shape[0], shape[2], shape[3], shape[1])
    model.inputs = (replace(spec, dtype=options.dtype, shape=shape), *model.inputs[1:])


def _constant(model: Model, spec: TensorSpec, name: str, given: float | Sequence[float]) -> Any:
    """A number, or a tensor [channels, 1, …] in the Model."""
    if isinstance(given, int | float):
        return float(given)
    channels = spec.shape[1] if len(spec.shape) > 1 else None
    if channels != len(given):
        raise PacklightError(f"{name} has {len(given)} numbers, input {spec.name!r} is {spec}; give one a channel")
    stored = f"{name}_of_input"
    model.set_tensor(stored, torch.tensor(given, dtype=torch.float32).reshape(-1, *[1] * (len(spec.shape) - 2)))
    return model.graph_module.graph.get_attr(stored)


def _after(model: Model, what: str) -> None:
    graph, aten = model.graph_module.graph, torch.ops.aten
    output = next(n for n in model.nodes if n.op == "output")
    results: Any = output.args[0]
    first, spec = (results[0] if isinstance(results, list | tuple) else results), model.outputs[0]
    if len(spec.shape) < 2:
        raise PacklightError(f"output {spec.name!r} is {spec}: {what} is taken over axis 1, which it has not")
    with graph.inserting_before(output):
        match what:
            case "softmax":
                made = graph.call_function(aten.softmax.int, (first, 1))
            case "sigmoid":
                made = graph.call_function(aten.sigmoid.default, (first,))
            case _:
                made = graph.call_function(aten.argmax.default, (first, 1))
                spec = replace(spec, dtype="int64", shape=(spec.shape[0], *spec.shape[2:]))
    made.meta["layer"] = what
    output.args = ((made, *results[1:]) if isinstance(results, list | tuple) else made,)
    model.outputs = (spec, *model.outputs[1:])

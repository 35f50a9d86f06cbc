"""PyTorch modules → Model, through torch.export.

The module is exported twice over the same parameters, in eval and in train mode. The eval graph is the
Model; the train graph only tells which arguments (dropout's `train`, batch norm's `training`, …) change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from packlight.errors import PacklightError
from packlight.model.finite import check_finite
from packlight.model.lineage import Step
from packlight.model.model import Model
from packlight.model.naming import name_layers
from packlight.model.shapes import propagate
from packlight.sources.account import account_of_sizes
from packlight.sources.example import DynamicDims, Example, positional_names, read_example
from packlight.sources.export import export
from packlight.sources.flatten import flatten
from packlight.sources.modes import record_modes
from packlight.sources.outputs import frozen_dims, input_specs, output_specs, read_structure
from packlight.sources.parts import with_parts
from packlight.sources.proof import proven_limits
from packlight.sources.regions import inline_regions

_CONTAINERS = (list, dict, set)


def from_module(
    module: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    dynamic: DynamicDims | None = None,
    name: str | None = None,
) -> Model:
    """Capture an nn.Module as a Model, on the CPU. The module itself is left as it was.

    example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
    dynamic: input name → {axis: dimension name}. By default axis 0 of every input is "batch" when all the
    inputs agree on its size; {} makes every size static.
    The graph is run beside the module, at other sizes too; a size for which it is not the network is refused later.
    Raises PacklightError when the network cannot be exported, with the place in the user's code.
    """
    if not isinstance(module, nn.Module):
        raise PacklightError(f"the network must be a torch.nn.Module, got {type(module).__name__}")
    title = name or type(module).__name__
    with _kept_as_it_was(module) as grown:
        example, program, notes = _export_eval(module.eval(), example_inputs, dynamic)
        precision = inline_regions(program.graph_module)
        notes += [*precision, *_record_training(module.train(), example, program)]
        structure = read_structure(program)
        graph_module, changes = flatten(program)
        limits, unlike = proven_limits(module.eval(), graph_module, example, program, loosely=bool(precision))
    example = example.fixed(unlike)
    notes += [
        *changes,
        *(
            f"{n!r}, which the network fills when it is called, is as in its first call: a Model keeps no state"
            for n in sorted(grown)
        ),
        *(f"dimension {d!r} is fixed: at other sizes the network does something else" for d in sorted(unlike)),
    ]
    model = Model(
        graph_module, input_specs(example), output_specs(program, structure, example), structure, example.sizes, title,
        [Step("load", options={"from": title})], notes, {d: limit for d, limit in limits.items() if d not in unlike},
    )  # fmt: skip
    name_layers(model.tidy())
    check_finite(model)
    try:
        return propagate(model.to("cpu"))
    except PacklightError as error:
        raise account_of_sizes(module, program, error) from error


def _export_eval(
    module: nn.Module, inputs: Any, dynamic: DynamicDims | None
) -> tuple[Example, ExportedProgram, list[str]]:
    """The eval graph, the example with the dimensions that it really keeps dynamic, and notes on the others."""
    example = read_example(module, inputs, dynamic)
    notes = []
    try:
        program = export(module, example)
    except PacklightError as error:
        if dynamic is not None or not example.dynamic:
            raise with_parts(module, example, error, _export_part) from error
        example = read_example(module, inputs, {})
        program = _export_whole(module, example)
        notes = [f"every size is fixed: with a dynamic batch, {error}"]
    fixed = frozen_dims(program, example)
    notes += [f"dimension {d!r} is fixed by the network's code" for d in sorted(fixed)]
    return example.fixed(fixed), program, notes


def _export_whole(module: nn.Module, example: Example) -> ExportedProgram:
    try:
        return export(module, example)
    except PacklightError as error:
        raise with_parts(module, example, error, _export_part) from error


def _export_part(part: nn.Module, args: Any, kwargs: Any) -> None:
    """Export one submodule at fixed sizes, positional arguments by their names."""
    named = dict(zip(positional_names(part, len(args)), args, strict=True)) if kwargs else {}
    export(part, read_example(part, {**named, **kwargs} if kwargs else args, {}))


def _record_training(module: nn.Module, example: Example, program: ExportedProgram) -> list[str]:
    """Record what training changes on the eval graph's nodes, from an export in train mode.

    With fixed sizes that takes half the time; where the graphs then differ, it is made sure that the sizes are not why.
    """
    notes: list[str] = []
    for sizes in (set(example.sizes), set()):
        try:
            training = export(module, example.fixed(sizes))
        except PacklightError as error:
            return [f"train mode cannot be captured and is the same as eval mode: {error}"]
        inline_regions(training.graph_module)
        notes = record_modes(program.graph, training.graph)
        if not notes:
            break
    return notes


@contextmanager
def _kept_as_it_was(module: nn.Module) -> Iterator[list[str]]:
    """Put every submodule's training flag and plain attributes back, and torch's random state.

    Gives a list that holds in the end what grew: lists and the like that a network fills when it is called.
    """
    flags = {m: m.training for m in module.modules()}
    before = {m: {k: (v, _copied(v)) for k, v in _attributes(m).items()} for m in module.modules()}
    names = {m: n for n, m in module.named_modules()}
    grown: list[str] = []
    try:
        with torch.random.fork_rng(devices=[]):
            yield grown
    finally:
        for m, training in flags.items():
            m.training = training
        for m, attributes in before.items():
            for key in _attributes(m).keys() - attributes.keys():
                del vars(m)[key]
            for key, (value, copied) in attributes.items():
                vars(m)[key] = value
                if type(value) in _CONTAINERS and len(value) != len(copied):
                    grown.append(f"{names[m]}.{key}".lstrip("."))
                    value.clear()
                    (value.extend if isinstance(value, list) else value.update)(copied)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module's own code has set on it, but for parameters, buffers and parts."""
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in _CONTAINERS else value

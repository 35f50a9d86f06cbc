"""ONNX files → Model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model.finite import check_finite
from packlight.model.lineage import Step
from packlight.model.model import Model
from packlight.model.naming import name_layers
from packlight.sources.example import DynamicDims
from packlight.sources.onnx.fuse import fuse
from packlight.sources.onnx.inputs import Inputs, Points, read_inputs
from packlight.sources.onnx.outputs import as_values, output_specs
from packlight.sources.onnx.read import check_known, checked, read, sound
from packlight.sources.onnx.trace import Trace
from packlight.sources.onnx.translate import Rules, Translation
from packlight.sources.onnx.values import Constant

if TYPE_CHECKING:
    import onnx_ir as ir


def from_onnx(
    source: str | os.PathLike[str] | ir.Model,
    example_inputs: Any = None,
    *,
    dynamic: DynamicDims | None = None,
    constants: Mapping[str, Any] | None = None,
    operators: Rules | None = None,
    name: str | None = None,
    check: bool = True,
) -> Model:
    """A Model of an ONNX file (operator sets 7 and newer), compared with ONNX Runtime where that is installed.

    example_inputs: tensors in order or by name, for files that leave sizes open. dynamic: input name → {axis: dimension
    name}; default: as the file says. constants: inputs that are to be constants, by name. operators: (domain, operator)
    → a function of (op, *inputs), beside packlight's own and those of installed plug-ins. check: compare with ONNX
    Runtime. Raises PacklightError for what is no sound ONNX file or has operators without a rule.
    """
    from packlight.sources.onnx.plugins import table

    title = name or (Path(source).stem if isinstance(source, str | os.PathLike) else source.graph.name or "network")
    rules = table(operators)
    graph = read(Path(source)) if isinstance(source, str | os.PathLike) else checked(source, title)
    check_known(graph, rules, title)
    bound = {k: _tensor(k, v) for k, v in (constants or {}).items()}
    runtime = [v for v in graph.graph.inputs if v.name not in bound and v.name not in graph.graph.initializers]
    with sound(title):
        inputs = read_inputs(runtime, example_inputs, dynamic)
        model = _first_that_fits(graph, inputs, bound, rules, title)
    if check and isinstance(source, str | os.PathLike):
        from packlight.sources.onnx.check import compare

        compare(model, Path(source), bound)
    return model


def _first_that_fits(graph: ir.Model, inputs: Inputs, bound: Mapping[str, Tensor], rules: Rules, title: str) -> Model:
    """The Model with as many dynamic dimensions as the network allows: sizes that do not fit are tried smaller, then
    the batch alone stays dynamic, then nothing does."""
    notes: list[str] = []
    reason = None
    for tried, fixed in _loosest_first(inputs):
        for points in tried.points():
            try:
                made = _translated(graph, tried, points, bound, rules, title)
            except PacklightError as error:
                reason = reason or error
                continue
            notes += [f"dimension {d!r} is fixed: {reason}" for d in fixed]
            return _finished(made, notes)
    assert reason is not None
    raise reason


def _loosest_first(inputs: Inputs) -> Sequence[tuple[Inputs, list[str]]]:
    others = {d: n for d, n in inputs.dims.items() if d not in inputs.batches}
    tries: list[tuple[Inputs, list[str]]] = [(inputs, [])]
    if others and inputs.batches and all(others.values()):
        tries.append((inputs.fixed(others), sorted(others)))
    every = {d: n or (d in inputs.batches) for d, n in inputs.dims.items()}
    if inputs.dims and all(every.values()):
        tries.append((inputs.fixed({d: int(n) for d, n in every.items()}), sorted(every)))
    return tries


def _translated(
    graph: ir.Model, inputs: Inputs, points: Points, bound: Mapping[str, Tensor], rules: Rules, title: str
) -> Model:
    trace = Trace(len(points))
    metas = dict(zip((s.name for s in inputs.specs), inputs.metas(points), strict=True))
    names = _identifiers([s.name for s in inputs.specs])
    given: dict[str, Any] = {n: trace.placeholder(i, metas[n]) for n, i in names.items()}
    given |= {n: Constant(t, n) for n, t in bound.items()}
    versions = {("" if d == "ai.onnx" else d): v for d, v in graph.opset_imports.items()}
    translation = Translation(trace, rules, versions)
    main = graph.graph
    for value in main.inputs:
        if str(value.name) in given:
            translation.known[value] = given[str(value.name)]
    results = as_values(trace, translation.run(main, ()))
    outputs = output_specs([str(v.name) for v in main.outputs], results, inputs, points)
    module = trace.finish([r.node for r in results])
    structure = {"dict": {s.name: i for i, s in enumerate(outputs)}} if len(outputs) > 1 else 0
    return Model(module, inputs.specs, outputs, structure, points[0], title, [Step("load", options={"from": title})])


def _finished(model: Model, notes: list[str]) -> Model:
    model.notes = tuple(notes)
    fuse(model.tidy())
    name_layers(model.tidy())
    check_finite(model)
    return model


def _tensor(name: str, given: Any) -> Tensor:
    if not isinstance(given, Tensor):
        given = torch.as_tensor(given)
    return given.detach().clone()


def _identifiers(names: Sequence[str]) -> dict[str, str]:
    """Input name → a Python name for it, each its own."""
    made: dict[str, str] = {}
    for i, name in enumerate(names):
        plain = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
        plain = plain if plain.isidentifier() and not plain.startswith("_") else f"input_{i}"
        made[name] = plain if plain not in made.values() else f"{plain}_{i}"
    return made

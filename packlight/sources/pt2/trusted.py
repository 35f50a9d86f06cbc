"""`.pt2` files of somebody whom the user trusts: torch.export.load unpickles and evaluates what the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils import _pytree as pytree

from packlight.errors import PacklightError
from packlight.model.finite import check_finite
from packlight.model.lineage import Step
from packlight.model.model import Model
from packlight.model.naming import name_layers
from packlight.model.shapes import propagate
from packlight.model.silence import silenced
from packlight.sources.example import DynamicDims, Example
from packlight.sources.flatten import flatten
from packlight.sources.outputs import input_specs, output_specs, read_structure, symbol
from packlight.sources.regions import inline_regions

_ANY = 2**31 - 1


def from_trusted(path: Path, *, dynamic: DynamicDims | None = None, name: str | None = None) -> Model:
    """A Model of a `.pt2` archive, opened by torch itself. Runs code out of the file; dynamic dimensions are those of
    the export. Raises PacklightError where torch cannot open it."""
    if dynamic is not None:
        raise PacklightError("with trust=True, dynamic dimensions are those that the file was exported with")
    title = name or path.stem
    try:
        with silenced():
            program = torch.export.load(path)
    except Exception as error:  # whatever a file of another version makes torch's own reader raise
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PacklightError(f"{path}: torch.export.load cannot open it: {said[:200]}") from error
    example, limits = _example(program)
    notes = inline_regions(program.graph_module)
    structure = read_structure(program)
    module, changes = flatten(program)
    model = Model(
        module, input_specs(example), output_specs(program, structure, example), structure, example.sizes, title,
        [Step("load", options={"from": title})],
        [*notes, *changes, "train mode is that of the file", "opened with trust: the file's own code was run"], limits,
    )  # fmt: skip
    name_layers(model.tidy())
    check_finite(model)
    return propagate(model.to("cpu"))


def _example(program: ExportedProgram) -> tuple[Example, dict[str, tuple[int, int]]]:
    """Inputs of the sizes that the program was exported with, its dynamic axes by name, and their limits."""
    nodes = [n for n in program.graph.nodes if n.op == "placeholder"]
    kinds = [s.kind for s in program.graph_signature.input_specs]
    users = [n for n, k in zip(nodes, kinds, strict=True) if k is InputKind.USER_INPUT]
    names: dict[Any, str] = {}
    dynamic: dict[str, dict[int, str]] = {}
    limits = {}
    for node in users:
        if not isinstance(node.meta.get("val"), Tensor):
            raise PacklightError(f"input {node.name!r} is no tensor; export the network with tensors only")
        for axis in range(node.meta["val"].dim()):
            if (found := symbol(node, axis)) is None:
                continue
            default = "batch" if axis == 0 and "batch" not in names.values() else f"{node.name}_{axis}"
            dim = names.setdefault(found, default)
            dynamic.setdefault(node.name, {})[axis] = dim
            if (bounds := program.range_constraints.get(found)) is not None:
                limits[dim] = (max(1, int(bounds.lower)), int(min(bounds.upper, _ANY)))
    leaves = tuple(_sample(n) for n in users)
    spec = pytree.tree_structure((leaves, {}))
    return Example(tuple(n.name for n in users), leaves, spec, dynamic), limits


def _sample(node: Node) -> Tensor:
    value = node.meta["val"]
    return torch.zeros([int(s.node.hint) if isinstance(s, torch.SymInt) else s for s in value.shape], dtype=value.dtype)

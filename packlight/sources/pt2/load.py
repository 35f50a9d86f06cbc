"""`.pt2` files of torch.export.save → Model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

from packlight.errors import PacklightError
from packlight.model.file import describe, restore
from packlight.model.graph_json import write_graph
from packlight.model.lineage import Step
from packlight.model.model import Model
from packlight.model.naming import name_layers
from packlight.model.operators import MODE_ARGUMENTS, argument, packet, set_argument
from packlight.model.shapes import Shapes, bytes_of, propagate, shape_of
from packlight.model.silence import silenced
from packlight.model.spec import TensorSpec, leaf_names
from packlight.sources.example import DynamicDims
from packlight.sources.flatten import flatten_graph
from packlight.sources.pt2.archive import DTYPES, Archive
from packlight.sources.pt2.graph import Reader, identifier
from packlight.sources.pt2.structure import read_structure

_SYMBOL = re.compile(r"(?:Symbol\('([A-Za-z]\w{0,40})'(?:, \w+=True){0,4}\)|([A-Za-z]\w{0,40}))\Z")
_ANY = 2**31 - 1
_MAX_RUN_BYTES = 1 << 30  # values together that the check at size 1 may take
_TRAINING = ("train", "training", "use_input_stats")


def from_pt2(path: Path, *, dynamic: DynamicDims | None = None, name: str | None = None) -> Model:
    """A Model of a `.pt2` archive; nothing in it is run.

    dynamic: input name → {axis: dimension name}; default: those that were dynamic at export, "batch" where it
    is axis 0.
    Raises PacklightError for archives that are damaged, that hold pickled objects, operators that are not in
    packlight's table, or sizes that depend on values.
    """
    title = name or path.stem
    try:
        with Archive(path) as archive:
            model = _Program(archive.program, archive.tensors(), dynamic).model(title)
        return _at_one(propagate(restore(*describe(model), path)))
    except PacklightError as error:
        raise error if str(error).startswith(str(path)) else PacklightError(f"{path} is refused: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise PacklightError(f"{path} is refused: its program is malformed ({what})") from error


@dataclass(frozen=True)
class _Input:
    """name: of the value in the file. shape: sizes, or the name of a dimension."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


class _Program:
    """One exported program: what it takes, gives and holds."""

    def __init__(self, program: Mapping[str, Any], tensors: Mapping[str, Tensor], dynamic: DynamicDims | None):
        module = program["graph_module"]
        self.graph, self.signature = module["graph"], module["signature"]
        self.tensors, self.calls = tensors, module.get("module_call_graph") or []
        self.ranges = program.get("range_constraints") or {}
        self.dims: dict[str, int] = {}
        self.limits: dict[str, tuple[int, int]] = {}
        self.inputs = self._inputs(dynamic)

    def model(self, title: str) -> Model:
        structure = read_structure(self.calls, self._outputs())
        module, notes = self._flat(self.dims)
        others = [{**self.dims, d: self._other(d)} for d in self.dims if self._other(d) != self.dims[d]]
        for sizes in others:
            again, _ = self._flat(sizes)
            if write_graph(again.graph.nodes) != write_graph(module.graph.nodes):
                raise PacklightError("it writes in place into parts of a dynamic dimension; write out of place")
        specs = [TensorSpec(i.name, str(i.dtype).removeprefix("torch."), i.shape) for i in self.inputs]
        model = Model(module, specs, [], structure, self.dims, title, [Step("load", options={"from": title})],
                      [*notes, *_modes(module.graph)], self.limits)  # fmt: skip
        name_layers(model.tidy())
        self.refuse_state(model)
        model.outputs = _output_specs(propagate(model), structure, others)
        return model

    def _flat(self, dims: Mapping[str, int]) -> tuple[GraphModule, list[str]]:
        """The functional graph over copies of the tensors, traced with these sizes, and notes on what is not kept."""
        graph = Graph()
        values: dict[str, Any] = {}
        placed: dict[Node, tuple[str, Tensor]] = {}
        for name, (kind, what) in self._placeholders().items():
            node = graph.placeholder(identifier(name) if kind == "user_input" else f"held_{len(placed)}")
            values[name] = node
            if kind != "user_input":
                if what not in self.tensors:
                    raise PacklightError(f"it reads tensor {what[:80]!r}, which it does not hold")
                placed[node] = (what, self.tensors[what])
        reader = Reader(graph)
        reader.nodes(self.graph["nodes"], values)
        if reader.refused:
            counted = ", ".join(f"{n} ({c})" if c > 1 else n for n, c in [*reader.refused.items()][:5])
            raise PacklightError(f"operators without a place in packlight's table: {counted}; "
                                 "decompose them before torch.export.save")  # fmt: skip
        results = [values[n] for n in self._outputs() if n is not None]
        graph.output(tuple(results))
        graph.lint()
        for node in reversed(graph.nodes):
            if node.op == "call_function" and not node.users and "getitem" in node.name:
                graph.erase_node(node)
        placeholders = [n for n in graph.nodes if n.op == "placeholder"]
        _trace(graph, [placed[n][1] if n in placed else self._fake(n, values, dims) for n in placeholders])
        module, notes = flatten_graph(graph, placed)
        return module, [*dict.fromkeys(reader.notes), *notes]

    def _fake(self, node: Node, values: Mapping[str, Node], dims: Mapping[str, int]) -> Tensor:
        found = next(i for i in self.inputs if values[i.name] is node)
        sizes = [dims[s] if isinstance(s, str) else s for s in found.shape]
        return torch.empty(sizes, dtype=found.dtype, device="meta")

    def _placeholders(self) -> dict[str, tuple[str, str]]:
        """Value → what kind of input it is, and the tensor's name where it is one that the program holds."""
        found = {}
        for spec in self.signature["input_specs"]:
            (kind, held), *_ = spec.items()
            match kind:
                case "parameter" | "buffer" | "tensor_constant":
                    found[held["arg"]["name"]] = (kind, str(held[f"{kind}_name"]))
                case "user_input" if "as_tensor" in held["arg"]:
                    found[held["arg"]["as_tensor"]["name"]] = (kind, "")
                case "user_input" if held["arg"].keys() & {"as_none", "as_int", "as_bool", "as_float", "as_string"}:
                    continue
                case "constant_input":
                    continue
                case _:
                    raise PacklightError(f"it takes a {str(kind)[:40]} that is no tensor; export it with tensors only")
        return found

    def _inputs(self, dynamic: DynamicDims | None) -> tuple[_Input, ...]:
        metas = {n: self.graph["tensor_values"][n] for n, (k, _) in self._placeholders().items() if k == "user_input"}
        unknown = sorted(set(dynamic or {}) - set(metas))
        if unknown:
            raise PacklightError(f"dynamic names inputs {unknown}, the network takes {list(metas)}")
        symbols = {n: [_symbol(s) for s in m["sizes"]] for n, m in metas.items()}
        names = _named(symbols, dynamic)
        made = []
        for n, meta in metas.items():
            shape: list[int | str] = []
            for axis, (size, symbol) in enumerate(zip(meta["sizes"], symbols[n], strict=True)):
                hint = _hint(size, self.ranges.get(symbol or "") or {})
                wanted = (dynamic or {}).get(n, {}).get(axis)
                if symbol is None and wanted is not None:
                    raise PacklightError(f"dynamic: axis {axis} of {n!r} was exported with the fixed size {hint}")
                dim = names.get(symbol or "")
                shape.append(dim or hint)
                if dim:
                    self._limit(dim, hint, self.ranges.get(symbol or "") or {})
            made.append(_Input(identifier(n), DTYPES[meta["dtype"]], tuple(shape)))
        return tuple(made)

    def _limit(self, dim: str, hint: int, given: Mapping[str, Any]) -> None:
        low, high = given.get("min_val"), given.get("max_val")
        self.dims[dim] = max(hint, 1)
        low, high = max(2, int(low or 2)), min(_ANY, int(high if high is not None else _ANY))
        self.limits[dim] = (low, max(high, low))

    def _other(self, dim: str) -> int:
        low, high = self.limits[dim]
        return self.dims[dim] + 1 if self.dims[dim] < high else max(low, self.dims[dim] - 1)

    def _outputs(self) -> list[str | None]:
        """Values that are the network's own outputs, in order; None for an output that is None."""
        names: list[str | None] = []
        for spec in self.signature["output_specs"]:
            (kind, held), *_ = spec.items()
            if kind != "user_output":
                continue
            if "as_none" in held["arg"]:
                names.append(None)
            elif "as_tensor" in held["arg"]:
                names.append(held["arg"]["as_tensor"]["name"])
            else:
                raise PacklightError("it returns other things than tensors; return tensors only")
        return names

    def refuse_state(self, model: Model) -> None:
        """PacklightError where the outputs depend on a tensor that the network changes when it is called."""
        changed = {str(s["buffer_mutation"]["buffer_name"]) for s in self.signature["output_specs"]
                   if "buffer_mutation" in s}  # fmt: skip
        read = sorted(changed & model.named_tensors().keys())
        if read:
            raise PacklightError(f"the network changes its own tensor {read[0][:80]!r} when it is called and reads it; "
                                 "a Model keeps no state between calls")  # fmt: skip


def _trace(graph: Graph, inputs: Sequence[Tensor]) -> None:
    """Write the shape of every value on the nodes, allocating nothing."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fakes = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cpu") for t in inputs]
    with silenced(), torch.no_grad():
        Shapes(GraphModule(torch.nn.Module(), graph), mode).propagate_dont_convert_inputs(*fakes)


def _symbol(size: Mapping[str, Any]) -> str | None:
    """The symbol of a dynamic size, None of a fixed one."""
    if "as_int" in size:
        return None
    text = str(size["as_expr"]["expr_str"])
    found = _SYMBOL.match(text)
    if not found:
        raise PacklightError(f"an input has the size {text[:60]!r}, computed from others; open it with trust=True")
    return found[1] or found[2]


def _hint(size: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """The size that the program was exported with, or one that is allowed where the file does not say."""
    hint = size["as_int"] if "as_int" in size else (size["as_expr"].get("hint") or {}).get("as_int")
    if hint is None:
        hint = min(max(4, int(given.get("min_val") or 0)), int(given.get("max_val") or _ANY))
    if not isinstance(hint, int) or isinstance(hint, bool) or not 0 <= hint < 1 << 31:
        raise PacklightError(f"an input has the size {str(hint)[:40]}")
    return hint


def _named(symbols: Mapping[str, Sequence[str | None]], dynamic: DynamicDims | None) -> dict[str, str]:
    """Symbol → the dimension's name; symbols that are not named stay fixed."""
    names: dict[str, str] = {}
    for n, found in symbols.items():
        for axis, symbol in enumerate(found):
            if symbol is None:
                continue
            if dynamic is not None:
                if axis in dynamic.get(n, {}):
                    names[symbol] = str(dynamic[n][axis])
            elif symbol not in names:
                names[symbol] = "batch" if axis == 0 and "batch" not in names.values() else f"{n}_{axis}"
    wrong = next((d for d in names.values() if not d.isidentifier()), None)
    if wrong is not None or len(set(names.values())) != len(names):
        raise PacklightError(f"dynamic: each dimension needs a name of its own, an identifier; got {names}")
    return names


def _modes(graph: Graph) -> list[str]:
    """Have dropout and norms train when the Model does (in place); notes on what the file does not say."""
    notes, found = [], False
    for node in graph.nodes:
        arguments = MODE_ARGUMENTS.get(packet(node), ()) if node.op == "call_function" else ()
        flag = next((a for a in arguments if a in _TRAINING), None)
        if flag is None:
            continue
        found = True
        was = argument(node, flag)
        if was is True:
            set_argument(node, flag, False)
            notes = ["the file was exported in train mode; here it starts in eval mode"]
        node.meta["modes"] = {flag: (False, True)}
    if not found:
        notes.append("train mode is the same as eval mode: the file holds no dropout or batch norm that could switch")
    return notes


def _output_specs(model: Model, structure: Any, others: Sequence[Mapping[str, int]]) -> tuple[TensorSpec, ...]:
    """Specs of the outputs; sizes that follow from the inputs', by looking at other sizes."""
    results: Any = model.graph_module.graph.output_node().args[0]
    names = leaf_names(structure)
    shapes = [[shape_of(r) for r in results]]
    dtypes = [str(r.meta["val"].dtype).removeprefix("torch.") for r in results]
    for sizes in others:
        propagate(model, **sizes)
        shapes.append([shape_of(r) for r in results])
    points = [model.dims, *others]
    propagate(model)
    return tuple(
        TensorSpec(names[i], dtypes[i], tuple(_size(c, points) for c in zip(*(s[i] for s in shapes), strict=True)))
        for i in range(len(results))
    )


def _size(values: Sequence[int], points: Sequence[Mapping[str, int]]) -> int | str:
    """A size at all points: a number, a dimension, or an expression in the one that it follows."""
    if len(set(values)) == 1:
        return values[0]
    changing = {d for a, b in pairwise(points) for d in a if a[d] != b[d]}
    moved = [p for v, p in zip(values, points, strict=True) if v != values[0]]
    follows = [d for d in sorted(changing) if any(p[d] != points[0][d] for p in moved)]
    for d in follows:
        other = next(i for i, p in enumerate(points) if p[d] != points[0][d])
        slope, rest = divmod(values[other] - values[0], points[other][d] - points[0][d])
        if len(follows) == 1 and not rest and slope:
            shift = values[0] - slope * points[0][d]
            top = d if slope == 1 else f"{slope}*{d}"
            return top if not shift else f"{top} {'+' if shift > 0 else '-'} {abs(shift)}"
    return "*".join(follows) + "_size"


def _at_one(model: Model) -> Model:
    """Let a dimension that was exported from 2 up also be 1, where a batch of one gives what each of two gives."""
    for dim in [d for d, (low, _) in model.limits.items() if low == 2]:
        if _same_alone(model, dim):
            model.limits[dim] = (1, model.limits[dim][1])
        else:
            model.notes = (*model.notes, f"dimension {dim!r} starts at 2, as in the file: 1 could not be shown right")
    model.limits = {d: limit for d, limit in model.limits.items() if limit != (1, _ANY)}
    return propagate(model)


def _same_alone(model: Model, dim: str) -> bool:
    batched = all(s.shape[:1] == (dim,) and dim not in s.shape[1:] for s in model.inputs)
    if not batched or not all(s.shape[:1] == (dim,) for s in model.outputs):
        return False
    try:
        propagate(model, **{dim: 2})
        if sum(map(bytes_of, model.nodes)) > _MAX_RUN_BYTES:
            return False
        propagate(model, **{dim: 1})
        alone = model.example_inputs(**{dim: 1})
        with torch.no_grad():
            one, two = model.flat(*alone), model.flat(*(torch.cat([t, t]) for t in alone))
    except (PacklightError, RuntimeError, IndexError, ValueError, TypeError):
        return False
    return all(torch.allclose(a[0].float(), b[0].float(), rtol=1e-4, atol=1e-5) for a, b in zip(one, two, strict=True))

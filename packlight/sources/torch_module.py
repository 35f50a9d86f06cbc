"""PyTorch modules → Model, through torch.export.

The module is exported twice over the same parameters, in eval and in train mode. The eval graph is the
Model; the train graph only tells which arguments (dropout's `train`, batch norm's `training`, …) change.
"""

from __future__ import annotations

import inspect
import logging
import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from packlight.errors import PacklightError
from packlight.model.finite import check_finite
from packlight.model.lineage import Step
from packlight.model.model import Model
from packlight.model.naming import name_layers
from packlight.model.operators import ASSERTIONS, MODE_ARGUMENTS, argument, kind, packet
from packlight.model.spec import Structure, TensorSpec, leaf_names

DynamicDims = Mapping[str, Mapping[int, str]]


def from_module(
    module: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    dynamic: DynamicDims | None = None,
    name: str | None = None,
) -> Model:
    """Capture an nn.Module as a Model. The module itself is left as it was.

    example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
    dynamic: input name → {axis: dimension name}. By default axis 0 of every input is "batch" when all the
    inputs agree on its size; {} makes every size static.
    Raises PacklightError when the network cannot be exported, with the place in the user's code.
    """
    args, kwargs = _as_call(example_inputs)
    names = _input_names(module, args, kwargs)
    leaves = pytree.tree_leaves((args, kwargs))
    if not all(isinstance(t, Tensor) for t in leaves):
        bad = next(type(t).__name__ for t in leaves if not isinstance(t, Tensor))
        raise PacklightError(f"example inputs must be tensors, got {bad}; bind other arguments in a wrapper module")
    if dynamic is None:
        dynamic = _default_dynamic(names, leaves)
    unknown = set(dynamic) - set(names)
    if unknown:
        raise PacklightError(f"dynamic names inputs {sorted(unknown)}, the network takes {names}")
    args, kwargs = _at_least_two(args, kwargs, names, dynamic)
    leaves = pytree.tree_leaves((args, kwargs))

    modes = {m: m.training for m in module.modules()}
    try:
        module.eval()
        program = _export(module, args, kwargs, names, dynamic)
        module.train()
        try:
            training_graph = _export(module, args, kwargs, names, dynamic).module(check_guards=False).graph
            lost: list[str] = []
        except PacklightError as error:
            training_graph, lost = None, [f"train mode could not be exported: {error}"]
    finally:
        for m, mode in modes.items():
            m.training = mode

    exported = program.module(check_guards=False)
    specs, dims = _input_specs(exported, names, leaves, dynamic)
    structure, order = _structure(program.call_spec.out_spec)
    graph_module = _flat_copy(exported, order)
    outputs = _output_specs(graph_module, structure, specs)
    notes = [*lost, *_record_modes(graph_module.graph, training_graph)]
    for input_name, axes in dynamic.items():
        fixed = [d for a, d in axes.items() if d not in specs[names.index(input_name)].shape]
        notes += [f"input {input_name!r}: dimension {d!r} is fixed by the network's code" for d in fixed]
    title = name or type(module).__name__
    model = Model(graph_module, specs, outputs, structure, dims, title, [Step("load", options={"from": title})], notes)
    name_layers(model)
    check_finite(model)
    return model.tidy()


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, Sequence) and not isinstance(example, str):
        return tuple(example), {}
    raise PacklightError(f"example inputs must be a tensor, a tuple or a dict of tensors, got {type(example).__name__}")


def _input_names(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """One name a flat tensor: the forward argument's, with the path inside it where it nests."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    positional += [f"input_{i}" for i in range(len(positional), len(args))]
    names = []
    for top, value in [*zip(positional, args, strict=False), *kwargs.items()]:
        for path, _ in pytree.tree_flatten_with_path(value)[0]:
            inner = "".join("_" + str(getattr(k, "key", getattr(k, "idx", k))) for k in path)
            names.append(top + inner)
    return names


def _default_dynamic(names: Sequence[str], leaves: Sequence[Tensor]) -> dict[str, dict[int, str]]:
    sizes = {t.shape[0] for t in leaves if t.dim() > 0}
    return {n: {0: "batch"} for n, t in zip(names, leaves, strict=True) if t.dim() > 0} if len(sizes) == 1 else {}


def _at_least_two(args: Any, kwargs: Any, names: Sequence[str], dynamic: DynamicDims) -> tuple[Any, Any]:
    """Repeat along dynamic axes of size 1: export takes a size of one for a constant."""
    flat, spec = pytree.tree_flatten((args, kwargs))
    grown = []
    for name, t in zip(names, flat, strict=True):
        for axis in dynamic.get(name, {}):
            if t.shape[axis] == 1:
                t = torch.cat([t, t], axis)
        grown.append(t)
    return pytree.tree_unflatten(grown, spec)  # type: ignore[no-any-return]


def _export(module: nn.Module, args: Any, kwargs: Any, names: Sequence[str], dynamic: DynamicDims) -> Any:
    flat, spec = pytree.tree_flatten((args, kwargs))
    axes = [{a: torch.export.Dim.AUTO for a in dynamic.get(n, {})} for n in names]
    shapes_args, shapes_kwargs = pytree.tree_unflatten(axes, spec)
    shapes = (*shapes_args, *shapes_kwargs.values()) if any(axes) else None
    if shapes_kwargs and shapes is not None:
        positional = list(inspect.signature(module.forward).parameters)[: len(args)]
        shapes = dict(zip(positional, shapes_args, strict=True)) | shapes_kwargs  # type: ignore[assignment]
    quiet = logging.getLogger("torch.export")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # the user's own forward runs in there: anything can be raised
        raise PacklightError(f"{type(module).__name__} cannot be exported: {_reason(error)}") from error
    finally:
        quiet.setLevel(level)


def _reason(error: Exception) -> str:
    """The error's first line and the innermost line of user code it came from."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    frame, place = error.__traceback__, ""
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if "/torch/" not in file and "/packlight/" not in file and not file.startswith("<"):
            place = f" (at {file}:{frame.tb_lineno})"
        frame = frame.tb_next
    return first[:300] + place


def _input_specs(
    exported: GraphModule, names: Sequence[str], leaves: Sequence[Tensor], dynamic: DynamicDims
) -> tuple[list[TensorSpec], dict[str, int]]:
    """Input specs; a dimension counts as dynamic only where export really kept it symbolic."""
    placeholders = [n for n in exported.graph.nodes if n.op == "placeholder"]
    specs, dims = [], {}
    for name, leaf, node in zip(names, leaves, placeholders, strict=True):
        shape: list[int | str] = list(leaf.shape)
        for axis, dim in dynamic.get(name, {}).items():
            if isinstance(node.meta["val"].shape[axis], torch.SymInt):
                shape[axis] = dim
                dims[dim] = int(leaf.shape[axis])
        specs.append(TensorSpec(name, str(leaf.dtype).removeprefix("torch."), tuple(shape)))
    return specs, dims


def _structure(spec: Any) -> tuple[Structure, list[int]]:
    """Our description of the output nesting, and which flat outputs are kept (Nones have no leaf)."""
    count = 0

    def walk(s: Any) -> Structure:
        nonlocal count
        if s.is_leaf():
            count += 1
            return count - 1
        children = [walk(c) for c in s.children()] if callable(getattr(s, "children", None)) else [walk(c) for c in s.children_specs]
        if s.type is list:
            return {"list": children}
        if s.type is tuple or (isinstance(s.type, type) and issubclass(s.type, tuple)):
            return {"tuple": children}
        keys = s.context if s.type is dict else _keys_of(s)
        return {"dict": dict(zip(map(str, keys), children, strict=True))}

    structure = walk(spec)
    return structure, list(range(count))


def _keys_of(spec: Any) -> Sequence[Any]:
    """Keys of a registered output class (a dataclass, an OrderedDict, a Hugging Face ModelOutput)."""
    context = spec.context
    while isinstance(context, list | tuple) and len(context) != spec.num_children and context:
        context = next((c for c in context if isinstance(c, list | tuple)), ())
    if isinstance(context, list | tuple) and len(context) == spec.num_children:
        return context
    return [str(i) for i in range(spec.num_children)]


def _flat_copy(exported: GraphModule, order: Sequence[int]) -> GraphModule:
    """The exported graph with plain code generation, functional operators and tensors of its own."""
    for node in list(exported.graph.nodes):
        _inline_region(exported, node)
    root = nn.Module()
    graph, moved, canonical = Graph(), {}, {}
    for node in exported.graph.nodes:
        if packet(node) in ASSERTIONS or node.op == "call_module":
            continue
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(exported)
            if id(value) in canonical:
                moved[node] = canonical[id(value)]
                continue
            _register(root, str(node.target), value)
            moved[node] = canonical[id(value)] = graph.get_attr(str(node.target))
            continue
        if node.op == "output":
            flat = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
            graph.output(tuple(moved[flat[i]] if isinstance(flat[i], Node) else flat[i] for i in order))
            break
        moved[node] = _functional(graph, node, moved)
    module = GraphModule(root, graph, "PacklightGraph")
    for old, new in moved.items():
        if new.op == "call_function":
            new.meta = {k: v for k, v in old.meta.items() if k in ("nn_module_stack", "val")}
    for node in graph.nodes:
        if node.op == "get_attr":
            node.meta = {}
    return module


def _inline_region(module: GraphModule, node: Node) -> None:
    """Replace `with torch.no_grad()` / autocast regions by the operators inside them."""
    if node.op != "call_function" or getattr(node.target, "__name__", "") not in (
        "wrap_with_set_grad_enabled", "wrap_with_autocast",
    ):  # fmt: skip
        return
    position = next(i for i, a in enumerate(node.args) if isinstance(a, Node) and a.op == "get_attr")
    inner: GraphModule = operator.attrgetter(str(node.args[position].target))(module)  # type: ignore[union-attr]
    values = dict(zip((n for n in inner.graph.nodes if n.op == "placeholder"), node.args[position + 1 :], strict=True))
    with module.graph.inserting_before(node):
        for n in inner.graph.nodes:
            if n.op == "output":
                results = n.args[0]
            elif n.op != "placeholder":
                values[n] = module.graph.node_copy(n, lambda x: values[x])
    for user in list(node.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(values[results[user.args[1]]])
        module.graph.erase_node(user)
    attribute = node.args[position]
    module.graph.erase_node(node)
    if isinstance(attribute, Node) and not attribute.users:
        module.graph.erase_node(attribute)


def _register(root: nn.Module, name: str, value: Tensor) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    copied = value.detach().clone()
    if isinstance(value, nn.Parameter):
        root.register_parameter(leaf, nn.Parameter(copied, requires_grad=value.requires_grad))
    else:
        root.register_buffer(leaf, copied)


def _functional(graph: Graph, node: Node, moved: dict[Node, Node]) -> Node:
    """Copy a node; `relu_(x)` becomes `relu(x)` and later readers of x read the result, as in the original."""
    new = graph.node_copy(node, lambda n: moved[n])
    name = packet(node)
    if node.op != "call_function" or not name.endswith("_") or name.endswith("__"):
        return new
    packets = torch.ops.aten
    twin = getattr(packets, name[:-1], None)
    overload = getattr(twin, node.target._overloadname, None) if twin is not None else None  # type: ignore[union-attr]
    if overload is None:
        return new
    new.target = overload
    written = node.args[0]
    if isinstance(written, Node):
        if kind(written) in ("reshape", "select", "permute") and _is_view_of_more(written):
            raise PacklightError(
                f"{name} writes into a view ({written.name}); rewrite that line without the in-place operator"
            )
        moved[written] = new
    return new


def _is_view_of_more(node: Node) -> bool:
    """Whether other code still reads the tensor behind this view, so that writing into it would be seen there."""
    source = node.args[0]
    return isinstance(source, Node) and len(source.users) > 1


def _output_specs(module: GraphModule, structure: Structure, inputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Output specs; a symbolic size that is an input's dynamic dimension carries its name."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    symbols: dict[str, str] = {}
    for spec, node in zip(inputs, placeholders, strict=True):
        value = node.meta.get("val")
        for dim, size in zip(spec.shape, value.shape if value is not None else (), strict=False):
            if isinstance(dim, str):
                symbols[str(size)] = dim
    flat = next(n for n in module.graph.nodes if n.op == "output").args[0]
    names = leaf_names(structure)
    specs = []
    for i, node in enumerate(flat):
        value = node.meta["val"]
        shape = tuple(symbols.get(str(s), str(s)) if isinstance(s, torch.SymInt) else int(s) for s in value.shape)
        specs.append(TensorSpec(names[i], str(value.dtype).removeprefix("torch."), shape))
    return specs


def _record_modes(graph: Graph, training: Graph | None) -> list[str]:
    """Write `meta["modes"]` on every node that training changes; say what training does that the graph lost."""
    if training is None:
        return []
    notes = []
    for name, arguments in MODE_ARGUMENTS.items():
        mine = [n for n in graph.nodes if packet(n) == name]
        theirs = [n for n in training.nodes if packet(n) == name]
        if len(mine) != len(theirs):
            notes.append(f"train mode has {len(theirs)} × {name}, eval mode {len(mine)}: "
                         "a Python branch on self.training; the eval branch is kept in both modes")  # fmt: skip
            continue
        for here, there in zip(mine, theirs, strict=True):
            pairs = {a: (argument(here, a), argument(there, a)) for a in arguments}
            plain = {a: v for a, v in pairs.items() if all(isinstance(x, bool | int | float) for x in v)}
            changed = {a: v for a, v in plain.items() if v[0] != v[1] and not any(map(_is_nan, v))}
            if changed:
                here.meta["modes"] = changed
    return notes


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)

"""The one in-memory model: a flat ATen graph with named inputs and outputs, and the steps that made it."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from packlight.errors import PacklightError
from packlight.model.lineage import Step
from packlight.model.operators import kind, set_argument
from packlight.model.spec import Structure, TensorSpec, restructure

_ANY = 2**31 - 1
_PART = re.compile(r"[A-Za-z0-9_\- ]{1,200}\Z")


class Model:
    """A network as an exported ATen graph (torch.export's training IR).

    Call it on tensors, differentiate through it, train it, save it; passes return changed copies and never
    touch the Model they were given. Parameters and buffers keep the names of the original network.

    graph_module: forward(*flat inputs) -> tuple of flat outputs. Nodes carry `meta["layer"]`, the name by
    which the user knows them, and `meta["modes"]`, argument -> (value in eval mode, value in train mode).
    inputs, outputs: a TensorSpec each. dims: a usable size for every named dynamic dimension.
    limits: dimension name → (lowest, highest) size for which the graph is the network; 1 and up where not given.
    notes: what was lost or changed on the way in, in plain words.
    files: name → content of what belongs to the network beside its graph (see packlight.model.companions).
    """

    def __init__(
        self,
        graph_module: GraphModule,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        structure: Structure,
        dims: Mapping[str, int],
        name: str = "model",
        lineage: Sequence[Step] = (),
        notes: Sequence[str] = (),
        limits: Mapping[str, tuple[int, int]] | None = None,
    ):
        self.graph_module = graph_module
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.structure = structure
        self.dims = dict(dims)
        self.name = name
        self.lineage = tuple(lineage)
        self.notes = tuple(notes)
        self.limits = dict(limits or {})
        self.files: dict[str, bytes] = {}
        self.training = False

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the network insists on, None where it takes any."""
        axis = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else None
        return axis if isinstance(axis, int) else None

    # calling

    @property
    def is_quantized(self) -> bool:
        """Whether the graph holds quantize/dequantize operators, or weights in floats of one or two bytes."""
        from packlight.model.floats import narrowed

        return any(kind(n) == "quantize" for n in self.nodes) or bool(narrowed(self))

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return restructure(self.structure, self.flat(*self._bind(args, kwargs)))

    def flat(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run on inputs in order; outputs as a flat tuple in the order of `outputs`."""
        result: tuple[Tensor, ...] = self.graph_module(*inputs)
        return result

    def _bind(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        names = [spec.name for spec in self.inputs]
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        if len(args) > len(names) or set(given) != set(names) or len(given) != len(args) + len(kwargs):
            got = [*(f"#{i}" for i in range(len(args))), *kwargs]
            raise PacklightError(f"{self.name} takes inputs {names}, got {got}")
        bound = tuple(given[n] for n in names)
        wrong = next((n for n in names if not isinstance(given[n], Tensor)), None)
        if wrong is not None:
            raise PacklightError(f"input {wrong!r} must be a torch tensor, got {type(given[wrong]).__name__}")
        self.check_inputs([t.shape for t in bound], [str(t.dtype).removeprefix("torch.") for t in bound])
        return bound

    def check_inputs(self, shapes: Sequence[Sequence[int]], dtypes: Sequence[str] | None = None) -> dict[str, int]:
        """Sizes of the dynamic dimensions that these input shapes imply; an error if they do not fit.

        dtypes: names as in TensorSpec, e.g. "float32"; not looked at when not given.
        """
        names = [spec.name for spec in self.inputs]
        if len(shapes) != len(names):
            raise PacklightError(f"{self.name} takes {len(names)} inputs {names}, got {len(shapes)}")
        dims: dict[str, int] = {}
        for i, (spec, shape) in enumerate(zip(self.inputs, shapes, strict=True)):
            spec.bind(shape, dims, None if dtypes is None else dtypes[i])
        for name, size in dims.items():
            low, high = self.limits.get(name, (1, _ANY))
            if not low <= size <= high:
                most = "" if high == _ANY else f" to {high}"
                raise PacklightError(f"dimension {name!r} is {size}, {self.name} takes {low}{most or ' and more'}")
        return dims

    def example_inputs(self, seed: int = 0, **dims: int) -> tuple[Tensor, ...]:
        """Random inputs that fit: normal for floats, zeros and ones for integers and booleans.

        dims: sizes of dynamic dimensions, e.g. batch=8; those not given take the sizes seen at export.
        """
        generator = torch.Generator().manual_seed(seed)
        made = []
        for spec in self.inputs:
            shape, dtype = spec.sizes({**self.dims, **dims}), getattr(torch, spec.dtype)
            if dtype.is_floating_point:
                made.append(torch.randn(shape, generator=generator).to(dtype))
            else:
                made.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
        return tuple(made)

    # tensors

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.graph_module.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.graph_module.named_parameters()

    def named_tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, the ones that a state_dict would leave out included."""
        parameters = self.graph_module.named_parameters(remove_duplicate=False)
        return dict(parameters) | dict(self.graph_module.named_buffers(remove_duplicate=False))

    def tensors_of(self, layers: str | Sequence[str]) -> set[str]:
        """Names of the parameters and buffers that layers read, those that any name pattern matches."""
        chosen = matching(list(self.layers()), layers)
        readers = [node for node in self.nodes if self.layer(node) in chosen]
        return {str(source.target) for node in readers for source in node.all_input_nodes if source.op == "get_attr"}

    def fingerprint(self) -> str:
        """A hex digest of all tensors: names, types, shapes and values."""
        return fingerprint(self.named_tensors())

    def tensor(self, node: Node) -> Tensor:
        """The parameter or buffer that a get_attr node reads."""
        owner, _, leaf = str(node.target).rpartition(".")
        value: Tensor = getattr(self.graph_module.get_submodule(owner), leaf)
        return value

    def set_tensor(self, name: str, value: Tensor, *, trainable: bool = False) -> None:
        """Replace or add the parameter (trainable) or buffer of this dotted name.

        Parts of a name are ASCII letters, digits, "_", "-" and spaces, and no attribute that torch's modules have.
        """
        owner_name, _, leaf = name.rpartition(".")
        owner: nn.Module = self.graph_module
        for part in owner_name.split(".") if owner_name else ():
            if part not in owner._modules:
                _check_free(owner, part, name)
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if leaf in owner._parameters or leaf in owner._buffers:
            delattr(owner, leaf)
        _check_free(owner, leaf, name)
        if trainable:
            owner.register_parameter(leaf, nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)

    def to(self, device: torch.device | str) -> Model:
        """Move this Model in place to a device, tensors made inside the graph too; returns self."""
        device = torch.device(device)
        self.graph_module.to(device)
        for node in self.nodes:
            node.args = tuple(device if isinstance(a, torch.device) else a for a in node.args)
            node.kwargs = {k: device if isinstance(v, torch.device) else v for k, v in node.kwargs.items()}
        self.graph_module.recompile()
        return self

    # modes

    def train(self, mode: bool = True) -> Model:
        """Switch dropout, batch norm and the like to their training behaviour (in place); returns self."""
        changed = False
        for node in self.nodes:
            for name, values in node.meta.get("modes", {}).items():
                set_argument(node, name, values[mode])
                changed = True
        if changed:
            self.graph_module.recompile()
        self.training = mode
        return self

    def eval(self) -> Model:
        return self.train(False)

    # graph

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self.graph_module.graph.nodes)

    def layers(self) -> dict[str, Node]:
        """User-facing layer name → the node that computes it, in graph order."""
        return {n.meta["layer"]: n for n in self.nodes if n.op == "call_function" and "layer" in n.meta}

    def layer(self, node: Node) -> str:
        """The name by which the user knows a node."""
        return str(node.meta.get("layer", node.name))

    def copy(self, *, share_tensors: bool = False) -> Model:
        """An independent Model: no tensor, node or list is shared.

        share_tensors: with a graph of its own over the same tensors, for looking at it in another mode or shape.
        """
        if share_tensors:
            graph = Graph()
            graph.output(graph.graph_copy(self.graph_module.graph, {}))
            module = GraphModule(self.graph_module, graph, type(self.graph_module).__name__)
        else:
            module = copy.deepcopy(self.graph_module)
        twin = Model(
            module, self.inputs, self.outputs, self.structure, self.dims, self.name,
            self.lineage, self.notes, self.limits,
        )  # fmt: skip
        for mine, theirs in zip(self.nodes, twin.nodes, strict=True):
            theirs.meta = dict(mine.meta)
            if "modes" in mine.meta:
                theirs.meta["modes"] = dict(mine.meta["modes"])
        twin.files = dict(self.files)
        twin.training = self.training
        return twin

    def with_step(self, step: Step) -> Model:
        """Record one more step in the lineage (in place; for passes, on their own copy); returns self."""
        self.lineage = (*self.lineage, step)
        return self

    def tidy(self) -> Model:
        """Drop nodes and tensors that nothing uses, and regenerate the code (in place); returns self."""
        graph = self.graph_module.graph
        for node in reversed(self.nodes):
            if not node.users and node.op in ("call_function", "get_attr"):
                graph.erase_node(node)
        used = {str(n.target) for n in self.nodes if n.op == "get_attr"}
        for name in self.named_tensors().keys() - used:
            owner, _, leaf = name.rpartition(".")
            delattr(self.graph_module.get_submodule(owner), leaf)
        graph.lint()
        self.graph_module.recompile()
        return self

    # files

    def save(self, path: str | Path) -> Path:
        """Write one `.plm` file that loads without the network's class (see packlight.model.file)."""
        from packlight.model.file import save

        return save(self, path)

    @staticmethod
    def load(path: str | Path) -> Model:
        """Read a `.plm` file. Nothing in the file is executed."""
        from packlight.model.file import load

        return load(path)

    def __repr__(self) -> str:
        size = sum(math.prod(p.shape) for p in self.parameters())
        steps = "".join(f" → {step}" for step in self.lineage)
        takes = ", ".join(f"{s.name}: {s}" for s in self.inputs)
        return f"Model {self.name}({takes}), {size:,} parameters{steps}"


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hex digest of named tensors: names, types, shapes and values."""
    seen = hashlib.sha256()
    for name, tensor in tensors.items():
        seen.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


def patterns_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Name patterns; a bare string is one of them, not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def matching(names: Sequence[str], patterns: str | Sequence[str]) -> set[str]:
    """The layer names that any pattern matches (shell wildcards); a pattern that matches nothing is an error."""
    found: set[str] = set()
    for pattern in patterns_of(patterns):
        hits = {n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, pattern + ".*")}
        if not hits:
            close = _closest(pattern, names)
            raise PacklightError(f"no layer matches {pattern!r}; {close}")
        found |= hits
    return found


def _check_free(owner: nn.Module, part: str, name: str) -> None:
    if not _PART.match(part) or iskeyword(part):
        raise PacklightError(f"tensor name {name[:80]!r}: only letters, digits, '_', '-', ' ', and no Python keyword")
    if hasattr(owner, part):
        raise PacklightError(f"tensor name {name[:80]!r}: torch's modules use {part[:80]!r} themselves; choose another")


def _closest(pattern: str, names: Sequence[str]) -> str:
    import difflib

    if not names:
        return "the model has no layer"
    bare = re.sub(r"[*?\[\]]", "", pattern)
    near = difflib.get_close_matches(bare, names, n=3, cutoff=0.3) or list(names[:3])
    return f"did you mean {', '.join(near)}? `packlight inspect` lists them all"

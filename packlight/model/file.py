"""The `.plm` file: one safetensors file whose header carries the graph as JSON.

Reading it executes nothing: operators are looked up in the operator table and nowhere else, names are
checked before they reach generated code, arguments are plain values, and shapes are worked out without
allocating, so that a file cannot ask for more memory than it may have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.fx import Graph, GraphModule

from packlight.errors import PacklightError
from packlight.files import replace_file
from packlight.model.codebooks import check_lookups
from packlight.model.companions import read as read_files
from packlight.model.companions import written
from packlight.model.finite import check_finite
from packlight.model.graph_json import DTYPES, read_graph, read_text, write_graph
from packlight.model.lineage import Step
from packlight.model.model import Model
from packlight.model.shapes import bytes_of, propagate, shape_of
from packlight.model.spec import TensorSpec, check_structure

SUFFIX = ".plm"
_VERSION = 1
_KEY = "packlight"
_MAX_GRAPH_CHARACTERS = 1 << 26
_MAX_VALUE_BYTES = 1 << 36


def save(model: Model, path: str | Path) -> Path:
    """Write a Model; the file appears whole or not at all. Returns the path."""
    path = Path(path)
    document, named = describe(model)
    tensors = _apart(named.items())
    metadata = {_KEY: document}
    replace_file(path, lambda temporary: _write(tensors, temporary, metadata))
    return path


def describe(model: Model) -> tuple[str, dict[str, Tensor]]:
    """Everything about a Model but its tensors, as one line of JSON, and its tensors by name; `restore` takes both."""
    document = {
        "version": _VERSION,
        "name": model.name,
        "training": model.training,
        "inputs": [[s.name, s.dtype, list(s.shape)] for s in model.inputs],
        "outputs": [[s.name, s.dtype, list(s.shape)] for s in model.outputs],
        "structure": model.structure,
        "dims": model.dims,
        "limits": model.limits,
        "notes": list(model.notes),
        "lineage": [[s.name, s.version, dict(s.options)] for s in model.lineage],
        "parameters": {n: p.requires_grad for n, p in model.named_parameters()},
        "nodes": write_graph(model.copy(share_tensors=True).eval().nodes),
    }
    if model.files:
        document["files"] = written(model.files)
    return json.dumps(document, separators=(",", ":")), model.named_tensors()


def _apart(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous and in memory of their own, as the container wants them."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in named:
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def _write(tensors: dict[str, Tensor], path: str, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # a full disk is one of these, not an OSError
        raise OSError(str(error)) from error
    except KeyError as error:
        raise PacklightError(f"the file format has no numbers of type {error}") from error


def load(path: str | Path) -> Model:
    """Read a `.plm` file written by `save`, or say in one line why it is refused."""
    path = Path(path)
    if not path.is_file():
        raise PacklightError(f"no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY, "")
            # cloned: the file's own are maps of its bytes, which someone may change on disk
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise PacklightError(f"{path} is no packlight model or is damaged: {_line(error)}") from error
    if not text:
        raise PacklightError(f"{path} is a safetensors file without a packlight graph")
    return restore(text, tensors, path)


def restore(document: str, tensors: Mapping[str, Tensor], path: Path) -> Model:
    """The Model of a document and tensors that came from a file, or PacklightError that says what is wrong with it."""
    try:
        if len(document) > _MAX_GRAPH_CHARACTERS:
            raise PacklightError(f"its graph has {len(document):,} characters, {_MAX_GRAPH_CHARACTERS:,} are allowed")
        return _read(json.loads(document), tensors)
    except PacklightError as error:
        raise PacklightError(f"{path} is refused: {error}") from error
    except Exception as error:  # whatever a forged or damaged graph trips over in torch, it is the file's fault
        what = f"{type(error).__name__}: {_line(error)}"
        raise PacklightError(f"{path} is refused: its graph is malformed ({what})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _read(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
    if document["version"] != _VERSION:
        raise PacklightError(f"file version {str(document['version'])[:20]}, this packlight reads {_VERSION}")
    graph = read_graph(document["nodes"], tensors)
    inputs = [_read_spec(s) for s in document["inputs"]]
    outputs = [_read_spec(s) for s in document["outputs"]]
    check_structure(document["structure"], len(outputs))
    shell = Model(GraphModule(torch.nn.Module(), Graph()), inputs, outputs, None, {})
    for name, tensor in tensors.items():
        shell.set_tensor(name, tensor, trainable=name in document["parameters"])
    for name, parameter in shell.named_parameters():
        parameter.requires_grad_(document["parameters"][name] is True)
    model = Model(
        GraphModule(shell.graph_module, graph, "PacklightGraph"), inputs, outputs, document["structure"],
        {read_text(k): _size(v) for k, v in document["dims"].items()}, read_text(document["name"]),
        [Step(read_text(n), int(v), dict(o)) for n, v, o in document["lineage"]],
        [read_text(n) for n in document["notes"]],
        {read_text(k): (_size(low), _size(high)) for k, (low, high) in document["limits"].items()},
    )  # fmt: skip
    model.files = read_files(document.get("files", {}))
    graph.lint()
    _check_values(model)
    check_lookups(model)
    check_finite(model)
    return model.train(document["training"] is True)


def _read_spec(written: Any) -> TensorSpec:
    name, dtype, shape = written
    if dtype not in DTYPES:
        raise PacklightError(f"input or output {str(name)[:80]!r} has unknown dtype {str(dtype)[:20]!r}")
    return TensorSpec(read_text(name), dtype, tuple(read_text(d) if isinstance(d, str) else _size(d) for d in shape))


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise PacklightError(f"size {str(value)[:40]} is not an integer from 0 to 2³¹ − 1")
    return value


def _check_values(model: Model) -> None:
    """Every value must have a shape and fit into memory, and inputs and outputs must be what the file says."""
    placeholders = [n for n in model.nodes if n.op == "placeholder"]
    if len(placeholders) != len(model.inputs) or len({s.name for s in model.inputs}) != len(model.inputs):
        raise PacklightError(f"its graph takes {len(placeholders)} inputs, it describes {len(model.inputs)}")
    if 0 in model.dims.values():
        raise PacklightError("a dynamic dimension has size 0")
    propagate(model)
    for node in model.nodes:
        if bytes_of(node) > _MAX_VALUE_BYTES:
            raise PacklightError(f"node {node.name} would take {bytes_of(node):,} bytes, {_MAX_VALUE_BYTES:,} at most")
    results: Any = model.graph_module.graph.output_node().args[0]
    for spec, node in zip(model.outputs, results, strict=True):
        sizes = [model.dims.get(d, None) if isinstance(d, str) else d for d in spec.shape]
        shape = shape_of(node)
        fits = len(sizes) == len(shape) and all(want in (None, got) for want, got in zip(sizes, shape, strict=True))
        if not fits or str(node.meta["val"].dtype) != f"torch.{spec.dtype}":
            raise PacklightError(f"output {spec.name!r} is described as {spec}, the graph makes {list(shape)}")

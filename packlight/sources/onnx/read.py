"""An ONNX file → onnx_ir's graph, inlined, in order and checked, without reading its large tensors.

Nothing outside the file's folder is ever opened, and no tensor may claim more bytes than the file has.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import MissingRuntime, PacklightError

if TYPE_CHECKING:
    import onnx_ir as ir

INSTALL = "pip install 'packlight[onnxruntime]'"
OLDEST = 7
_MOST_NODES = 200_000
_SHOWN = 12
_UNSOUND = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError, OSError,
            AssertionError)  # fmt: skip


def read(path: Path) -> ir.Model:
    """The file's model with functions inlined and nodes in order; PacklightError for what is no sound ONNX file."""
    try:
        import onnx
        import onnx_ir
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingRuntime(f"ONNX files need onnx and onnx-ir, which are not installed: {INSTALL}") from error
    with sound(str(path)):
        try:
            proto = onnx.load(str(path), load_external_data=False)
        except DecodeError as error:
            raise ValueError(error) from error
        if not proto.HasField("graph"):
            raise ValueError("it holds no graph")
        model = onnx_ir.from_proto(proto)
        del proto
        _point_at(model, path.parent)
        return checked(model, str(path))


@contextmanager
def sound(title: str) -> Iterator[None]:
    """What a broken file may make any library raise, as a PacklightError of one line."""
    try:
        yield
    except _UNSOUND as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PacklightError(f"{title} is not a sound ONNX file: {first[:200]}") from error


def checked(model: ir.Model, title: str) -> ir.Model:
    """The same, in order; PacklightError where names, tensors or order are not sound."""
    from onnx_ir.passes.common import InlinePass

    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if version and version < OLDEST:
        raise PacklightError(f"{title} is of operator set {version}; packlight reads {OLDEST} and newer: "
                             "convert it with onnx.version_converter")  # fmt: skip
    try:
        if model.functions:
            InlinePass()(model)
        model.graph.sort()
    except (ValueError, RuntimeError, RecursionError, KeyError) as error:
        raise PacklightError(f"{title} is not a sound ONNX file: its nodes or functions make a cycle") from error
    nodes = list(every_node(model.graph))
    if len(nodes) > _MOST_NODES:
        raise PacklightError(f"{title} has {len(nodes):,} nodes; packlight reads up to {_MOST_NODES:,}")
    _check_values(model.graph, title)
    for name, tensor in _tensors(model.graph, nodes):
        _check_tensor(name, tensor, title)
    return model


def every_node(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of a graph and of the graphs inside them."""
    pending = [graph]
    while pending:
        for node in pending.pop():
            yield node
            pending += [a.value for a in node.attributes.values() if a.type.name == "GRAPH"]


def check_known(model: ir.Model, rules: Collection[tuple[str, str]], title: str) -> None:
    """Raise PacklightError that lists every operator without a rule, with how often it occurs."""
    from packlight.sources.onnx.translate import domain_of

    missing = Counter(
        f"{domain_of(n)}.{n.op_type}".lstrip(".") for n in every_node(model.graph)
        if (domain_of(n), n.op_type) not in rules
    )  # fmt: skip
    if missing:
        shown = ", ".join(f"{name} ({count})" for name, count in missing.most_common(_SHOWN))
        more = f" and {len(missing) - _SHOWN} more kinds" if len(missing) > _SHOWN else ""
        raise PacklightError(f"{title} has operators that packlight does not know: {shown}{more}; export it without "
                             "them, or give a rule of your own (docs/sources.md)")  # fmt: skip


def _point_at(model: ir.Model, folder: Path) -> None:
    """Give external tensors their folder; refuse those that leave it."""
    for tensor in _external(model):
        location = str(tensor.location)
        target = (folder / location).resolve()
        inside = not Path(location).is_absolute() and target.is_relative_to(folder.resolve())
        if not inside or (folder / location).is_symlink():
            raise PacklightError(f"tensor {tensor.name!r} lies in {location!r}, outside the file's folder; "
                                 "packlight opens nothing there")  # fmt: skip
        if not target.is_file():
            raise PacklightError(f"tensor {tensor.name!r} lies in {location!r}, which is not beside the file")
        tensor.base_dir = str(folder.resolve())


def _external(model: ir.Model) -> Iterator[Any]:
    import onnx_ir

    for _, tensor in _tensors(model.graph, every_node(model.graph)):
        if isinstance(tensor, onnx_ir.ExternalTensor):
            yield tensor


def _tensors(graph: ir.Graph, nodes: Any) -> Iterator[tuple[str, Any]]:
    graphs = [graph]
    for node in nodes:
        for attribute in node.attributes.values():
            if attribute.type.name == "GRAPH":
                graphs.append(attribute.value)
            elif attribute.type.name == "TENSOR":
                yield f"{node.name}.{attribute.name}", attribute.value
    for g in graphs:
        for value in g.initializers.values():
            if value.const_value is not None:
                yield value.name or "", value.const_value


def _check_tensor(name: str, tensor: Any, title: str) -> None:
    """A tensor holds as many bytes as its shape says, and its file has them."""
    import onnx_ir

    sizes = [int(s) for s in tensor.shape]
    if any(s < 0 for s in sizes):
        raise PacklightError(f"{title}: tensor {name!r} has shape {sizes}")
    claimed = math.ceil(math.prod(sizes) * tensor.dtype.itemsize) if tensor.dtype.name != "STRING" else 0
    if isinstance(tensor, onnx_ir.ExternalTensor):
        offset, length = tensor.offset or 0, tensor.length
        file = Path(tensor.path).stat().st_size
        held = length if length is not None else file - offset
        if offset < 0 or held != claimed or offset + held > file:
            raise PacklightError(f"{title}: tensor {name!r} of shape {sizes} claims {claimed:,} bytes from byte "
                                 f"{offset:,} on of {tensor.location!r}, which has {file:,}")  # fmt: skip
        return
    raw = getattr(tensor, "raw", None)
    data = getattr(raw, "raw_data", b"") if raw is not None else b""
    if data and len(data) != claimed:
        raise PacklightError(f"{title}: tensor {name!r} of shape {sizes} has {len(data):,} bytes, not {claimed:,}")
    if not data and claimed > 1 << 31:
        raise PacklightError(f"{title}: tensor {name!r} of shape {sizes} claims {claimed:,} bytes that the file lacks")


def _check_values(graph: ir.Graph, title: str) -> None:
    """Everything that is read is an input, an initialiser, or some node's result."""
    lost = sorted({
        str(v.name) for n in every_node(graph) for v in n.inputs
        if v is not None and v.producer() is None and v.const_value is None
        and not v.is_graph_input() and not v.is_initializer()
    })  # fmt: skip
    if lost:
        named = ", ".join(lost[:_SHOWN])
        raise PacklightError(f"{title} reads {len(lost)} values that nothing makes, no initialiser either: {named}")

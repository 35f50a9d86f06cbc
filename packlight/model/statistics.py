"""What a Model costs: parameters, bytes, MACs and peak activation memory, per layer and in all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from packlight.model.codebooks import lookups
from packlight.model.floats import Narrowed, narrowed
from packlight.model.model import Model
from packlight.model.operators import argument, kind, macs, packet
from packlight.model.shapes import bytes_of, propagate, shape_of

# Operators whose result lies in their first input's memory; dropout does in eval mode, which is what is counted.
_VIEWS = frozenset("view reshape flatten unflatten _unsafe_view squeeze unsqueeze permute transpose t swapaxes mT "
                   "expand expand_as slice select split split_with_sizes chunk tensor_split unbind getitem detach "
                   "alias narrow diagonal dropout alpha_dropout feature_dropout".split())  # fmt: skip


@dataclass(frozen=True)
class LayerStatistics:
    """One operator.

    params: elements of its weights and biases, counted at the first operator that reads them. weight_bytes: what
    those take as a runtime stores them, so one byte an element where the weight is quantized to 8 bits, and where it is
    looked up, its indices, packed, and tables and factors that training moves. weight_bits: of a quantized weight or of
    an index, 0 where there is neither. output: shape at the batch asked for. moved: elements of activations that it
    reads and writes at the least, none where runtimes fold it into its neighbour. low_precision: whether weights and
    activations are quantized, so that it computes in integers.
    """

    name: str
    operator: str
    params: int
    macs: int
    weight_bytes: int
    output: tuple[int, ...]
    weight_bits: int
    moved: int = 0
    low_precision: bool = False


@dataclass(frozen=True)
class Statistics:
    """A whole Model at one batch size.

    buffer_bytes: running statistics, tables, quantization scales. peak_activation_bytes: most bytes of values
    alive at once in graph order, inputs included; weights and what is computed from them alone are not, and views
    share their source's memory. A runtime that works in place or plans memory better needs less.
    """

    layers: tuple[LayerStatistics, ...]
    params: int
    macs: int
    weight_bytes: int
    buffer_bytes: int
    peak_activation_bytes: int
    batch: int


def statistics(model: Model, batch: int = 1) -> Statistics:
    """Count a Model's cost at a batch size (for networks with a dynamic "batch"; others as exported)."""
    model = propagate(model.copy(share_tensors=True).eval(), **({"batch": batch} if "batch" in model.dims else {}))
    parameters = {n for n, _ in model.named_parameters()}
    layers: list[LayerStatistics] = []
    counted: set[str] = set()
    shared = lookups(model)
    low = narrowed(model)
    inside = {n for found in (shared, low) for given, how in found.items() for n in (given, *how.nodes)}
    for node in model.nodes:
        if node.op != "call_function" or kind(node) in ("quantize", "size") or node in inside:
            continue
        tables = [shared[n] for n in node.all_input_nodes if n in shared]
        sources = [(t.index, t.bits) for t in tables] + [
            _stored(n, low) for n in node.all_input_nodes if n not in shared
        ]
        read = {str(s.target): (s, bits) for s, bits in sources if s is not None}
        weights = {n: found for n, found in read.items() if n in parameters or found[1]}
        own = [found for n, found in weights.items() if n not in counted]
        beside = {str(s.target): s for t in tables for s in t.counted if str(s.target) not in counted}
        counted |= {*weights, *beside}
        taken = [*own, *((s, 0) for s in beside.values())]
        layers.append(LayerStatistics(
            model.layer(node), packet(node), sum(model.tensor(s).numel() for s, _ in own), macs(node, shape_of),
            sum(_stored_bytes(model, s, bits) for s, bits in taken), shape_of(node),
            max((bits for _, bits in weights.values()), default=0), _moved(node), _in_integers(node),
        ))  # fmt: skip
    tensors = model.named_tensors()
    bare = [tensors[n] for n in parameters - counted]  # handed out as they are, like a learned temperature
    buffers = [t for n, t in tensors.items() if n not in parameters | counted]
    return Statistics(
        tuple(layers), sum(r.params for r in layers) + sum(t.numel() for t in bare), sum(r.macs for r in layers),
        sum(r.weight_bytes for r in layers) + _bytes(bare), _bytes(buffers), peak_activation_bytes(model), batch,
    )  # fmt: skip


def _moved(node: Node) -> int:
    """Elements that an operator reads and writes. Views and functions of one value cost a fused runtime none, and a
    sum of two reads one of them."""
    if packet(node) in _VIEWS or kind(node) == "unary":
        return 0
    written = math.prod(shape_of(node)) if shape_of(node) else 0
    if kind(node) == "binary":
        return written
    return written + sum(math.prod(shape_of(n)) for n in node.all_input_nodes if n.op != "get_attr" and not _weight(n))


def _weight(node: Node) -> bool:
    """Whether a value is a constant, dequantized."""
    return kind(node) == "quantize" and "per_channel" in packet(node)


def _in_integers(node: Node) -> bool:
    data = node.all_input_nodes[:1]
    return bool(data) and kind(node) == "contraction" and packet(data[0]) == "dequantize_per_tensor"


def _stored(node: Node, low: Mapping[Node, Narrowed]) -> tuple[Node | None, int]:
    """The tensor that feeds an operator, looking through quantize/dequantize and casts, and its bits (0: as it is)."""
    if node in low:
        return low[node].source, low[node].bits
    bits = 0
    while kind(node) == "quantize":
        bits = int(argument(node, "quant_max") - argument(node, "quant_min")).bit_length()
        node = node.args[0]  # type: ignore[assignment]
    return (node, bits) if node.op == "get_attr" else (None, 0)


def _stored_bytes(model: Model, source: Node, bits: int) -> int:
    tensor = model.tensor(source)
    return (tensor.numel() * bits + 7) // 8 if bits else _bytes([tensor])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def peak_activation_bytes(model: Model) -> int:
    """Peak over graph order of the bytes of live values, for a model whose shapes were propagated."""
    nodes = model.nodes
    storage: dict[Node, Node] = {}
    last_use: dict[Node, int] = {}
    for i, node in enumerate(nodes):
        sources = [n for n in node.all_input_nodes if n in storage]
        if node.op == "placeholder" or (node.op == "call_function" and (sources or not node.all_input_nodes)):
            view = packet(node) in _VIEWS and node.args and node.args[0] in storage
            storage[node] = storage[node.args[0]] if view else node  # type: ignore[index]
        for used in sources:
            last_use[storage[used]] = i
    live, peak = 0, 0
    dying: dict[int, int] = {}
    for i, node in enumerate(nodes):
        if storage.get(node) is node:
            size = bytes_of(node)
            live += size
            last = last_use.get(node, i)
            dying[last] = dying.get(last, 0) + size
        peak = max(peak, live)
        live -= dying.get(i, 0)
    return peak

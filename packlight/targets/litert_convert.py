"""Model → the bytes of a .tflite file, by litert-torch.

Its converter takes quantize/dequantize operators in the graph, but wants a weight as

    float constant ─ quantize_per_channel ─ dequantize_per_channel

so a frozen weight q is given back as the floats s · q, which are quantized to q again without loss.
"""

from __future__ import annotations

import logging
import operator
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model.integers import freeze
from packlight.model.operators import load_quantized_operators, packet
from packlight.targets.adapt import give_each_reader_its_own
from packlight.targets.framing import frame_convolutions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from packlight.model import Model

_ILLEGAL = re.compile(r'"([\w.]+)"\)*: failed to legalize')


class Stored(NamedTuple):
    """A constant with a scale a row: value ≈ scales[row] · integers[row]. integers: int8 [rows, …]. scales: float32
    [rows], > 0. floats: float32 [rows, …], what the converter is given."""

    floats: NDArray[np.float32]
    integers: NDArray[np.int8]
    scales: NDArray[np.float32]


def convert(model: Model, dims: Mapping[str, int]) -> tuple[bytes, list[Stored]]:
    """The Model with these sizes as a file's bytes, and its integer weights: where no integer kernel reads them, the
    converter writes them as floats."""
    load_quantized_operators()
    frozen = freeze(model.copy().eval())
    frozen.graph_module.training = False
    _leave_ranges_to_kernels(frozen)
    frame_convolutions(frozen)
    _let_readers_broadcast(frozen)
    stored = _widen_weights(frozen)
    give_each_reader_its_own(frozen)  # else the second may get its values in the wrong order, silently
    quantized = any(packet(n).startswith("quantize_per") for n in frozen.nodes)
    return _convert(frozen, frozen.example_inputs(**dims), quantized=quantized), stored


def _convert(model: Model, inputs: tuple[Any, ...], *, quantized: bool) -> bytes:
    import litert_torch
    from litert_torch.progress import config
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    config.show_progress = False
    how = None
    if quantized:
        chosen = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
        how = QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(chosen))
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = litert_torch.convert(model.graph_module, inputs, strict_export=False, quant_config=how)
            return bytes(made.model_content())
    except (RuntimeError, ValueError, NotImplementedError) as error:
        unknown = _unknown(model, inputs) or Counter(_ILLEGAL.findall(str(error)))
        if not unknown:
            raise
        told = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        raise PacklightError(
            f"LiteRT has no form of these operators of {model.name}: {told}; rewrite them, or use another target"
        ) from error
    finally:
        logging.getLogger().setLevel(level)


def _unknown(model: Model, inputs: tuple[Any, ...]) -> Counter[str]:
    """Operators, as torch's decompositions leave them, that the converter does not know, and how many there are."""
    from litert_torch.backend.lowerings import lookup
    from litert_torch.fx_infra import decomp, safe_run_decompositions

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(model.graph_module, inputs, strict=False)
        for table in (decomp.pre_convert_decomp(), decomp.pre_lower_decomp()):
            program = safe_run_decompositions(program, table, can_skip=False)
    called = (n.target for n in program.graph.nodes if n.op == "call_function" and n.target is not operator.getitem)
    return Counter(str(t).removeprefix("aten.") for t in called if lookup(t) is None)


def _leave_ranges_to_kernels(model: Model) -> None:
    """Take out ranges of activations that are taken at run time, in place: the hybrid kernels take their own."""
    for node in model.nodes:
        if packet(node) == "dequantize_per_tensor" and isinstance(node.args[1], Node):
            node.replace_all_uses_with(cast("Node", cast("Node", node.args[0]).args[0]))
    model.tidy()


def _let_readers_broadcast(model: Model) -> None:
    """Leave out expansions that arithmetic does by itself, in place: turned to channels last, the converter expands the
    axis that was there before."""
    for node in model.nodes:
        value = node.args[0] if packet(node) in ("expand", "expand_as") else None
        if not isinstance(value, Node) or value.meta["val"].dim() != node.meta["val"].dim():
            continue
        for reader in list(node.users):
            others = [n for n in reader.all_input_nodes if n is not node]
            alike = others and all(n.meta["val"].shape == node.meta["val"].shape for n in others)
            if packet(reader) in ("add", "sub", "mul", "div") and alike:
                reader.replace_input_with(node, value)
    model.tidy()


def _widen_weights(model: Model) -> list[Stored]:
    """Integer weights → floats and the operator that quantizes them to the same integers, in place."""
    graph, found = model.graph_module.graph, []
    quantize = torch.ops.quantized_decomposed.quantize_per_channel.default
    for node in model.nodes:
        source = node.args[0] if node.args else None
        if packet(node) != "dequantize_per_channel" or not isinstance(source, Node) or source.op != "get_attr":
            continue
        integers, scales, zeros = (model.tensor(cast("Node", a)).detach() for a in node.args[:3])
        axis = cast("int", node.args[3])
        sizes = [-1 if i == axis else 1 for i in range(integers.dim())]
        floats = (integers.float() - zeros.reshape(sizes)) * scales.float().reshape(sizes)
        name = f"{source.target}_float"
        model.set_tensor(name, floats)
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
            again = graph.call_function(quantize, (constant, *node.args[1:4], -128, 127, torch.int8))
        constant.meta["val"] = torch.empty_like(floats, device="meta")
        again.meta["val"] = source.meta.get("val")
        node.args = (again, *node.args[1:4], -128, 127, torch.int8)
        if axis == 0 and not zeros.any():
            found.append(Stored(floats.numpy(), integers.numpy(), scales.float().numpy()))
    model.tidy()
    return found

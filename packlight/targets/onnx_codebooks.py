"""Indices of shared weights: packed into words, which standard operators take apart again.

    words [m, 1] uint64 ─ BitShift [p] ─ BitwiseAnd ─ Cast ─ [m, p] int32

p = 64 // bits indices a word. ONNX Runtime computes that, and the lookup behind it, once, when it opens the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from packlight.targets.onnx_graph import initializer

if TYPE_CHECKING:
    from packlight.model import Model

_WORD = 64
_NODES = 400  # bytes that taking words apart adds to a file


def hold(model: Model) -> Model:
    """Indices behind a dequantize of scale 1 (in place), which the converter does not compute as it does other small
    constants: it would write weights of full size. Returns the Model."""
    import torch

    from packlight.model.codebooks import lookups
    from packlight.model.operators import load_quantized_operators

    load_quantized_operators()
    graph = model.graph_module.graph
    for lookup in lookups(model).values():
        with graph.inserting_before(lookup.cast):
            held = graph.call_function(
                torch.ops.quantized_decomposed.dequantize_per_tensor.default,
                (lookup.index, 1.0, 0, 0, 255, torch.uint8),
            )
        held.meta["val"] = torch.empty(model.tensor(lookup.index).shape, device="meta")
        lookup.cast.replace_input_with(lookup.index, held)
    return model.tidy()


def pack_indices(model: ir.Model) -> None:
    """Cast(DequantizeLinear(indices)), as `hold` left them, → words and what takes them apart; in place."""
    for node in list(model.graph):
        held = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
        if held is None or held.op_type != "DequantizeLinear" or not _is_index(node, held):
            continue
        stored = held.inputs[0]
        assert stored is not None and stored.const_value is not None
        index = stored.const_value.numpy()
        bits = max(1, int(index.max(initial=0)).bit_length())
        words = packed(index.reshape(-1), bits)
        if words.nbytes + _NODES < index.nbytes:
            _look_up_directly(_unpack(model, node, stored.name or "index", words, bits, index.shape))
        else:
            node.replace_input_with(0, stored)
            _look_up_directly(node.outputs[0])


def packed(index: Any, bits: int) -> Any:
    """uint64 [words]: numbers uint8 [n] < 2^bits, 64 // bits a word, the first in the lowest bits."""
    each = _WORD // bits
    filled = np.zeros(-(-index.size // each) * each, np.uint64)
    filled[: index.size] = index
    return np.bitwise_or.reduce(filled.reshape(-1, each) << _shifts(bits), axis=1)


def _shifts(bits: int) -> Any:
    return np.arange(_WORD // bits, dtype=np.uint64) * np.uint64(bits)


def _is_index(cast: ir.Node, held: ir.Node) -> bool:
    stored = held.inputs[0]
    constant = stored.const_value if stored is not None else None
    return (
        cast.attributes.get_int("to", 0) == ir.DataType.INT32.value
        and constant is not None
        and constant.dtype == ir.DataType.UINT8
    )


def _unpack(model: ir.Model, cast: ir.Node, name: str, words: Any, bits: int, shape: tuple[int, ...]) -> ir.Value:
    """Give the readers of a Cast the same numbers out of words, which are returned."""
    made: list[ir.Node] = []

    def call(operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        made.append(ir.node(operator, list(inputs), attributes, name=f"{cast.name}/{operator}"))
        made[-1].outputs[0].name = f"{cast.name}:{len(made)}"
        return made[-1].outputs[0]

    def constant(what: str, content: Any) -> ir.Value:
        return initializer(model, f"{name}_{what}", content)

    value = call("BitShift", constant("words", words[:, None]), constant("shifts", _shifts(bits)), direction="RIGHT")
    value = call("BitwiseAnd", value, constant("mask", np.array(2**bits - 1, np.uint64)))
    value = call("Cast", value, to=ir.DataType.INT32.value)
    count, readers = int(np.prod(shape)), [use.node for use in cast.outputs[0].uses()]
    flat = all(r.op_type == "Reshape" for r in readers)
    if words.size * (_WORD // bits) != count:
        value = call("Reshape", value, constant("flat", np.array([-1])))
        value = call("Slice", value, constant("first", np.array([0])), constant("count", np.array([count])))
    if not flat:
        value = call("Reshape", value, constant("shape", np.array(shape)))
    for node in made:
        model.graph.insert_before(cast, node)
    cast.outputs[0].replace_all_uses_with(value)
    model.graph.remove(cast, safe=True)
    return value


def _look_up_directly(index: ir.Value) -> None:
    """Gather reads int32 of any shape: indices need not be flat and int64, as the exporter writes them, where what was
    looked up is reshaped anyway."""
    for use in list(index.uses()):
        if use.node.op_type == "Add":
            _look_up_directly(use.node.outputs[0])
        for gather in _followers(use.node, ("Reshape", "Cast", "Gather")):
            if all(last.node.op_type == "Reshape" for last in gather.outputs[0].uses()):
                gather.replace_input_with(1, index)


def _followers(node: ir.Node, chain: tuple[str, ...]) -> list[ir.Node]:
    """The ends of chains of these operators that begin with a node."""
    if node.op_type != chain[0]:
        return []
    if len(chain) == 1:
        return [node]
    return [end for use in list(node.outputs[0].uses()) for end in _followers(use.node, chain[1:])]

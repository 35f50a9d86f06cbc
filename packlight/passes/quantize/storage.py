"""Weights that are kept as integers and computed with in float: embedding tables and the weights of recurrent layers.

A lookup reads a few rows of a table, so there is nothing to speed up, but in networks that read text the table is most
of the file. Every row has a scale of its own (Jacob et al. 2018, arXiv 1712.05877, section 2, symmetric): rows of words
that are rare stay small, and one scale for all was seen to have 1.7 times (an LSTM's table) to 5 times (a sentence
encoder's) the error.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from packlight.model import Model
from packlight.model.numerics import Format, Numerics
from packlight.model.operators import kind, packet
from packlight.passes.quantize.pairs import insert_constant_pair
from packlight.passes.quantize.ranges import weight_scales

_LEAST_ELEMENTS = 256  # below, the scales cost what the integers save


def storable(model: Model, numerics: Numerics, excluded: Container[str]) -> tuple[dict[Node, Node], dict[str, str]]:
    """(constant → the operator that reads it, layer → why it stays in float), of the operators that a target takes
    stored weights for. excluded: layer names that stay in float."""
    found: dict[Node, Node] = {}
    kept: dict[str, str] = {}
    for node in model.nodes:
        if packet(node) not in numerics.stored:
            continue
        layer = model.layer(node)
        if layer in excluded:
            kept[layer] = "excluded by name"
            continue
        for constant in _weights(node):
            if len(constant.users) > 1:
                kept[layer] = "its weight is shared with another layer"
            elif _fits(model, constant):
                found[constant] = node
    return found, kept


def store(model: Model, constants: dict[Node, Node], form: Format, *, search: bool) -> None:
    """Put a quantize/dequantize pair with a scale a row behind each constant, in place."""
    for source, reader in constants.items():
        scales = weight_scales(model.tensor(source), form, search=search)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        insert_constant_pair(model, source, reader, scales, zeros, form)


def _weights(node: Node) -> Iterator[Node]:
    """The constants that an operator reads as its table or its matrices."""
    read: list[Node] = []
    map_arg((node.args[:1] if kind(node) == "lookup" else node.args, node.kwargs), read.append)
    yield from dict.fromkeys(n for n in read if n.op == "get_attr")


def _fits(model: Model, constant: Node) -> bool:
    tensor = model.tensor(constant)
    return tensor.dtype == torch.float32 and tensor.dim() == 2 and tensor.numel() >= _LEAST_ELEMENTS

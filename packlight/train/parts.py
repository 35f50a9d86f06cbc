"""A classifier's graph in parts: below the head, from there on, up to the scores; and a part's weights carried home."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model, TensorSpec
from packlight.model.shapes import propagate, shape_of
from packlight.train.head import head_of


def features_of(model: Model) -> Model:
    """The network below the head: inputs → the head's features. Tensors are the Model's own."""
    return _cut(model, end=head_of(model).features)


def head_alone(model: Model) -> Model:
    """The head, with any dropout before it and the tail behind it: features → output. Tensors are the Model's own."""
    return _cut(model, begin=head_of(model).features)


def without_softmax(model: Model) -> Model:
    """The Model up to its class scores [n, classes], which cross entropy wants. Tensors are the Model's own."""
    cut = _cut(model, end=head_of(model).scores)
    return cut if len(cut.outputs[0].shape) == 2 else model


def carried(model: Model, trained: Model) -> Model:
    """A copy of a Model with the tensors of a part of it that was trained, and that part's lineage."""
    made = model.copy().eval()
    theirs = trained.named_tensors()
    with torch.no_grad():
        for name, tensor in made.named_tensors().items():
            if name in theirs:
                tensor.copy_(theirs[name])
    made.lineage = trained.lineage
    return made


def _cut(model: Model, begin: Node | None = None, end: Node | None = None) -> Model:
    """The part of a Model's graph from one value to another: from its inputs, to its output, where none is given."""
    twin = propagate(model.copy(share_tensors=True))
    nodes = dict(zip(model.nodes, twin.nodes, strict=True))
    graph = twin.graph_module.graph
    if begin is not None:
        first = nodes[begin]
        twin.inputs = (_spec("features", first, model),)
        if first.op != "placeholder" or len(model.inputs) > 1:
            _begin_at(twin, first)
    if end is not None:
        last = nodes[end]
        twin.outputs, twin.structure = (_spec("output", last, model),), 0
        graph.output_node().args = ((last,),)
    return twin.tidy()


def _begin_at(twin: Model, first: Node) -> None:
    """Have a new input stand for a node's value (in place), the old inputs gone."""
    graph = twin.graph_module.graph
    old = [n for n in twin.nodes if n.op == "placeholder"]
    with graph.inserting_before(next(iter(graph.nodes))):
        features = graph.placeholder("features")
    features.meta["val"] = first.meta["val"]
    first.replace_all_uses_with(features)
    twin.tidy()
    for node in old:
        if node.users:
            reader = twin.layer(next(iter(node.users)))
            raise PacklightError(
                f"{twin.name}: layer {reader!r} behind the head reads the network's input; use mode full"
            )
        graph.erase_node(node)


def _spec(name: str, node: Node, model: Model) -> TensorSpec:
    """A value's description: samples along its first axis, as many as the first input has."""
    value: Tensor = node.meta["val"]
    batch = model.inputs[0].shape[:1]
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), (*batch, *shape_of(node)[1:]))

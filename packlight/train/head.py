"""The classifier's head on the graph: found, and given other classes.

The head is the last contraction with weights of its own (linear, matrix product or 1×1 convolution) whose outputs,
one a class, reach the Model's only output through nothing that mixes classes but a softmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model, Step
from packlight.model.operators import argument, kind, packet
from packlight.model.shapes import propagate, shape_of

# What may stand between head and output: each class by itself, or a softmax over them.
_THROUGH = {"unary", "binary", "softmax", "reshape", "permute", "select", "spatial"}
_REDUCING = {"mean", "sum", "amax", "logsumexp"}
_NORMALISING = {"softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid", "log_sigmoid"}
_DROPOUTS = {"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"}


@dataclass(frozen=True)
class Head:
    """layer: the name by which the user knows it. node: the contraction. input: what it reads. weight, bias: tensor
    names. axis: of the weight, classes stand along it. tail: from the node's result to the Model's output, in order.
    """

    layer: str
    node: Node
    input: Node
    weight: str
    bias: str | None
    axis: int
    tail: tuple[Node, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def features(self) -> Node:
        """What the network below gives: the head's input, before any dropout of it."""
        node = self.input
        while packet(node) in _DROPOUTS:
            (node,) = node.all_input_nodes
        return node

    @property
    def scores(self) -> Node:
        """Class scores before the tail's first softmax or sigmoid; the output where it has none."""
        chain = (self.node, *self.tail)
        first = next((i for i, n in enumerate(chain) if packet(n) in _NORMALISING), len(chain))
        return chain[first - 1]


def head_of(model: Model) -> Head:
    """The head of a classifier with one float output [n, classes], or an error that says what it has instead."""
    classes = _classes(model)
    (node,) = _results(model)
    tail: list[Node] = []
    bias: str | None = None
    while (found := _contraction(model, node)) is None:
        added = _added_bias(model, node, classes)
        data = _passed_on(model, node) if added is None else added[0]
        if data is None or (added is not None and bias is not None):
            what = packet(node) or node.op
            raise PacklightError(
                f"{model.name}: its output comes from {what} (layer {model.layer(node)!r}), not from one linear layer "
                "or 1×1 convolution: there is no head to replace; give a network that ends in one"
            )
        bias = bias if added is None else added[1]
        tail.append(node)
        node = data
    data, weight, own_bias, axis = found
    own = str(own_bias.target) if isinstance(own_bias, Node) else bias
    head = Head(model.layer(node), node, data, str(weight.target), own, axis, tuple(reversed(tail)))
    _check_own(model, head, classes)
    return head


def replace_head(model: Model, classes: int, seed: int = 0) -> Model:
    """A copy of a classifier whose head is fresh and tells `classes` >= 2 classes apart.

    Weights are drawn from U(−1/√k, 1/√k), k the head's inputs, with a generator of their own; biases are 0.
    """
    if type(classes) is not int or classes < 2:
        raise PacklightError(f"a head needs a whole number of classes >= 2, got {classes!r}")
    head = head_of(model)
    made = model.copy().eval()
    tensors = made.named_tensors()
    shape = list(tensors[head.weight].shape)
    shape[head.axis] = classes
    bound = 1 / math.sqrt(math.prod(shape) / classes)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 * bound - bound
    made.set_tensor(head.weight, drawn.to(tensors[head.weight]), trainable=True)
    if head.bias is not None:
        made.set_tensor(head.bias, tensors[head.bias].detach().new_zeros(classes), trainable=True)
    (spec,) = made.outputs
    made.outputs = (replace(spec, shape=(*spec.shape[:-1], classes)),)
    _check_output(made, head, classes)
    return made.with_step(Step("replace_head", options={"layer": head.layer, "classes": classes, "seed": seed}))


def _classes(model: Model) -> int:
    if model.is_quantized:
        raise PacklightError(
            f"{model.name} is quantized: transfer the float network it was made of, then compress that"
        )
    if len(model.outputs) != 1:
        raise PacklightError(f"{model.name} has {len(model.outputs)} outputs; transfer takes a classifier with one")
    (spec,) = model.outputs
    if not getattr(torch, spec.dtype).is_floating_point or len(spec.shape) != 2 or not isinstance(spec.shape[1], int):
        raise PacklightError(f"{model.name} gives {spec}; transfer takes a classifier with float scores [n, classes]")
    return spec.shape[1]


def _results(model: Model) -> Any:
    return model.graph_module.graph.output_node().args[0]


def _contraction(model: Model, node: Node) -> tuple[Any, Any, Any, int] | None:
    """(data, weight, bias, the weight's class axis) of a contraction with weights of its own; None for other nodes."""
    match packet(node):
        case "linear":
            data, weight, bias, axis = node.args[0], argument(node, "weight"), argument(node, "bias"), 0
        case "conv1d" | "conv2d" if argument(node, "groups") == 1:
            data, weight, bias, axis = node.args[0], argument(node, "weight"), argument(node, "bias"), 0
        case "mm" | "matmul":
            data, weight, bias, axis = *node.args, None, 1
        case "addmm":
            data, weight, bias, axis = node.args[1], node.args[2], node.args[0], 1
        case _:
            return None
    if isinstance(weight, Node) and kind(weight) == "permute" and packet(weight) not in ("flip", "roll", "rot90"):
        (weight,) = weight.all_input_nodes  # of two axes: the only order that is another
        axis = 1 - axis
    read = [n for n in (weight, bias) if n is not None]
    if not all(isinstance(n, Node) and n.op == "get_attr" for n in read):
        return None
    shape = model.tensor(weight).shape
    if len(shape) < 2 or any(size != 1 for size in shape[2:]):
        return None
    return data, weight, bias, axis


def _added_bias(model: Model, node: Node, classes: int) -> tuple[Node, str] | None:
    """(data, name) where a parameter [classes] is added, as a matrix product's bias is."""
    if packet(node) != "add" or len(node.all_input_nodes) != 2 or node.kwargs:
        return None
    for data, other in (node.all_input_nodes, node.all_input_nodes[::-1]):
        if other.op == "get_attr" and tuple(model.tensor(other).shape) == (classes,) and data.op != "get_attr":
            return data, str(other.target)
    return None


def _passed_on(model: Model, node: Node) -> Node | None:
    """The one value that an operator passes on class by class; None where it does something else."""
    if kind(node) not in _THROUGH and packet(node) not in _REDUCING:
        return None
    values = [
        n for n in node.all_input_nodes
        if kind(n) != "size" and packet(n) != "sym_size" and not (n.op == "get_attr" and model.tensor(n).numel() == 1)
    ]  # fmt: skip
    return values[0] if len(values) == 1 else None


def _check_own(model: Model, head: Head, classes: int) -> None:
    tensors = model.named_tensors()
    if tensors[head.weight].shape[head.axis] != classes:
        raise PacklightError(
            f"{model.name}: its last layer {head.layer!r} gives {tensors[head.weight].shape[head.axis]} values, the "
            f"network {classes} classes: there is no head to replace; give a network with one value a class"
        )
    for name in head.tensors:
        readers = [n for n in model.nodes if n.op == "get_attr" and model.tensor(n) is tensors[name]]
        if sum(len(n.users) for n in readers) > 1:
            others = sorted({model.layer(u) for n in readers for u in n.users} - {head.layer})
            raise PacklightError(
                f"{model.name}: the head's {name!r} is shared with {', '.join(others) or 'another use of it'}; "
                "give the network a head with a weight of its own before loading it"
            )


def _check_output(model: Model, head: Head, classes: int) -> None:
    """The graph behind the head takes the new number of classes."""
    try:
        propagate(model)
        fits = shape_of(_results(model)[0])[-1] == classes
    except PacklightError:
        fits = False
    if not fits:
        raise PacklightError(
            f"{model.name}: what follows layer {head.layer!r} is written for its old number of classes "
            f"({', '.join(packet(n) for n in head.tail)}); use sizes that follow from the input, such as -1"
        )

"""Which tensors of a Model are weights, and along which axis their output channels stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, float32
from torch.fx import Node

from packlight.model import Model, matching
from packlight.model.operators import kind, packet

_PRUNED = 0.1  # share of zeros from which on they are no accident
_READERS = ("contraction", "lookup", "rnn")


@dataclass(frozen=True)
class Weight:
    """node: the get_attr that reads it. layer: the first that uses it. value: float32, two axes or more. axis: of its
    output channels."""

    node: Node
    layer: str
    value: Tensor
    axis: int

    @property
    def name(self) -> str:
        return str(self.node.target)

    @property
    def pruned(self) -> bool:
        return float((self.value == 0).float().mean()) >= _PRUNED

    @property
    def rows(self) -> Tensor:
        """[channels, values a channel]."""
        return self.value.movedim(self.axis, 0).flatten(1)


def weights_of(model: Model, exclude: Sequence[str], kept: dict[str, str]) -> Iterator[Weight]:
    """Parameters with two axes or more that layers multiply with or look up, also those that several layers share and
    those that are transposed first. exclude: layer-name patterns; the layers that stay in float for them are added to
    `kept`."""
    excluded = matching(list(model.layers()), exclude)
    learned = {n for n, _ in model.named_parameters()}
    for node in model.nodes:
        if node.op != "get_attr" or str(node.target) not in learned:
            continue
        value = model.tensor(node).detach()
        readers = list(_readers(node))
        if value.dtype != float32 or value.dim() < 2 or not readers:
            continue
        left = [model.layer(r) for r in readers if model.layer(r) in excluded]
        if left:
            kept |= dict.fromkeys(left, "excluded by name")
            continue
        yield Weight(node, model.layer(readers[0]), value, _axis(node, readers[0]))


def _readers(node: Node) -> Iterator[Node]:
    """Layers that read it, through transposes, too; for a lookup only as its table."""
    for user in node.users:
        if kind(user) == "permute":
            yield from _readers(user)
        elif kind(user) in _READERS and (kind(user) != "lookup" or user.args[0] is node):
            yield user


def _axis(node: Node, reader: Node) -> int:
    if packet(reader).startswith("conv_transpose") or (packet(reader) == "convolution" and reader.args[6]):
        return 1
    direct = node in reader.all_input_nodes
    return node.meta["val"].dim() - 1 if direct and packet(reader).endswith(("mm", "matmul")) else 0

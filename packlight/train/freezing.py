"""Which parameters move, and how fast: the rates that hooks give them."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import packet, set_argument
from packlight.train.hooks import Hook


class Freezing:
    """Layer-wise factors on the learning rate. any: whether a hook gives one. live: the Model whose graph is run."""

    def __init__(self, model: Model, live: Model, hooks: Sequence[Hook]):
        self.model, self.live = model, live
        self.hooks = [h for h in hooks if type(h).rate is not Hook.rate]
        self.any = bool(self.hooks)
        self.factors: dict[str, float] = {}
        self.trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.norms = [
            (node, weight)
            for node in live.nodes
            if packet(node) == "batch_norm" and (weight := _ruling(node)) is not None
        ]

    def factor(self, name: str) -> float:
        """Of a parameter of the Model by name; 1 for those of hooks."""
        return self.factors.get(name, 1.0)

    def update(self, progress: float) -> None:
        """Ask the hooks; what is frozen computes no gradient, and frozen batch norms keep their statistics."""
        if not self.any:
            return
        before = {name for name, factor in self.factors.items() if factor == 0}
        for name, _ in self.trained:
            factor = 1.0
            for hook in self.hooks:
                factor *= hook.rate(name, progress)
            self.factors[name] = factor
        frozen = {name for name, factor in self.factors.items() if factor == 0}
        if frozen == before and progress > 0:
            return
        for name, parameter in self.trained:
            parameter.requires_grad_(name not in frozen)
            if name in frozen:
                parameter.grad = None
        self.settle_norms()

    def settle_norms(self) -> None:
        """Batch norms whose weight is frozen in eval mode, the others in training mode."""
        if not self.any:
            return
        for node, weight in self.norms:
            for argument, values in node.meta.get("modes", {}).items():
                set_argument(node, argument, values[self.factors[weight] > 0 if weight in self.factors else True])
        self.live.graph_module.recompile()

    def thaw(self) -> None:
        """Everything may be trained again."""
        for _, parameter in self.trained:
            parameter.requires_grad_(True)


def _ruling(norm: Node) -> str | None:
    """The parameter whose rate says whether a batch norm is frozen: its weight, else that of the layer before it."""
    weight, before = norm.args[:2][::-1]
    if isinstance(weight, Node):
        return str(weight.target)
    read = before.all_input_nodes if isinstance(before, Node) else []
    return next((str(n.target) for n in read if n.op == "get_attr"), None)

"""Look at values while a graph runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.fx import Interpreter, Node

from packlight.model import Model


class Watch(Interpreter):
    """Runs a Model's graph and hands the value of each watched node to functions."""

    def __init__(self, model: Model, watched: Mapping[Node, Sequence[Callable[[Any], None]]]):
        super().__init__(model.graph_module)
        self.watched = watched

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for look in self.watched.get(n, ()):
            look(value)
        return value

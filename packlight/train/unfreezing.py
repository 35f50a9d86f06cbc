"""Gradual unfreezing with layer-wise learning rates: what is nearest to the head moves first, and most.

Howard and Ruder 2018 (arXiv 1801.06146): a layer group's rate is that of the group above it divided by 2.6
(discriminative fine-tuning, section 3.2), and groups are unfrozen from the top one after another (section 3.3). There
it is one group an epoch; here, so that a run of any length or time gets to the bottom, groups are unfrozen at equal
distances over its first half. The paper's networks have four layers; deeper ones are divided into groups of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.operators import kind
from packlight.train.head import head_of
from packlight.train.hooks import Hook

_OVER = 0.5  # share of the run after which everything moves
_WITH_WEIGHTS = ("contraction", "lookup", "rnn")


def layer_groups(model: Model, groups: int) -> list[list[str]]:
    """Parameter names in groups from the top: the head's, then at most `groups` >= 1 groups of equally many layers.

    A layer is an operator that multiplies or looks up weights, with the norms and other parameters behind it.
    """
    head = head_of(model)
    layers: list[list[str]] = [[]]
    parameters = {name for name, _ in model.named_parameters()}
    placed = set(head.tensors)
    for node in model.nodes:
        read = dict.fromkeys(str(n.target) for n in node.all_input_nodes if n.op == "get_attr")
        new = [name for name in read if name in parameters and name not in placed]
        if not new:
            continue
        if kind(node) in _WITH_WEIGHTS and layers[-1]:
            layers.append([])
        layers[-1] += new
        placed |= set(new)
    if groups < 1:
        raise PacklightError(f"unfreezing needs groups >= 1, got {groups}")
    parts = np.array_split(np.arange(len(layers)), min(groups, len(layers)))
    return [list(head.tensors), *([name for i in part for name in layers[i]] for part in reversed(parts))]


class Unfreezing(Hook):
    """groups: parameter names, the top group first; of names in none, the lowest group's rate. decay: >= 1, what a
    group's rate is divided by to give that of the group below."""

    def __init__(self, groups: Sequence[Sequence[str]], decay: float = 2.6):
        if not groups or not decay >= 1:
            raise PacklightError(f"unfreezing needs a group or more and decay >= 1, got {len(groups)} and {decay}")
        self.depth = {name: i for i, group in enumerate(groups) for name in group}
        self.lowest, self.decay = len(groups) - 1, decay

    def rate(self, name: str, progress: float) -> float:
        depth = self.depth.get(name, self.lowest)
        begins = _OVER * depth / max(1, self.lowest)
        return float(self.decay**-depth) if progress >= begins else 0.0

    def options(self) -> dict[str, Any]:
        return {"transfer": "unfreeze", "groups": self.lowest + 1, "decay": self.decay}

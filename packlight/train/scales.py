"""Learned step sizes: quantized Models train the scales of their quantizers along with the weights.

LSQ (Esser et al. 2019, arXiv 1902.08153, section 2); per channel for weights, and with the zero points of affine
activations as calibration set them (Bhalgat et al. 2020, arXiv 2004.09576, learn those, too).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.operators import load_quantized_operators, packet
from packlight.train.hooks import Hook, Run

_LEAST = 1e-2  # of what it was: a scale does not pass through zero


class LearnScales(Hook):
    """Train the scales of weights and activations. freeze: in (0, 1], the share of the run after which they stand
    still, so that weights settle between the grid's points."""

    def __init__(self, *, weights: bool = True, activations: bool = True, freeze: float = 1.0):
        if not 0 < freeze <= 1:
            raise PacklightError(f"scales are learned for a share of the run in (0, 1], got {freeze}")
        if not (weights or activations):
            raise PacklightError("learn the scales of weights, of activations or of both")
        self.weights, self.activations, self.freeze = weights, activations, freeze
        self.learned: dict[str, float] = {}  # name → least value

    def start(self, run: Run) -> None:
        load_quantized_operators()
        model, names = run.model, []
        if self.activations:
            names += list(_open_activations(model))
        if self.weights:
            names += list(_open_weights(model))
        if not names:
            raise PacklightError(f"{model.name} has no quantizers whose scales could be learned; quantize it first")
        tensors = model.named_tensors()
        self.learned = {n: _LEAST * float(tensors[n].detach().min()) for n in dict.fromkeys(names)}

    def rate(self, name: str, progress: float) -> float:
        return 0.0 if name in self.learned and progress > self.freeze else 1.0

    def after_step(self, run: Run) -> None:
        tensors = run.model.named_tensors()
        with torch.no_grad():
            for name, least in self.learned.items():
                tensors[name].clamp_(min=least)

    def end(self, run: Run) -> None:
        _close(run.model, set(self.learned))

    def options(self) -> dict[str, Any]:
        return {"learn_scales": {"weights": self.weights, "activations": self.activations, "freeze": self.freeze}}


def _open_weights(model: Model) -> Iterator[str]:
    """Scales of weights become parameters, whose names are given."""
    for node in list(model.nodes):
        scale: Any = node.args[1] if packet(node).startswith("quantize_per_channel") else None
        if isinstance(scale, Node) and scale.op == "get_attr":
            name = str(scale.target)
            model.set_tensor(name, model.tensor(scale).detach().clone(), trainable=True)
            yield name


def _open_activations(model: Model) -> Iterator[str]:
    """Scales of activations, numbers in the graph, become parameters; those that values share (through a pooling) stay
    one."""
    graph, ops = model.graph_module.graph, torch.ops.quantized_decomposed
    known: dict[Any, tuple[Node, Node, str]] = {}
    for node in list(model.nodes):
        name = packet(node)
        if name not in ("quantize_per_tensor", "dequantize_per_tensor") or isinstance(node.args[1], Node):
            continue
        key: Any = node.args[1:3]
        if key not in known:
            called = f"{model.layer(node).removesuffix('.quantize').replace('.', '_')}_step_{len(known)}"
            device = next(model.parameters()).device
            model.set_tensor(called, torch.tensor(float(key[0]), device=device), trainable=True)
            model.set_tensor(f"{called}_zero_point", torch.tensor(int(key[1]), device=device))
            with graph.inserting_before(node):
                known[key] = graph.get_attr(called), graph.get_attr(f"{called}_zero_point"), called
            for made in known[key][:2]:
                made.meta["val"] = model.tensor(made).detach()
        scale, zero, called = known[key]
        node.target = getattr(ops, name).tensor
        node.args = (node.args[0], scale, zero, *node.args[3:])
        yield called
    model.graph_module.recompile()


def _close(model: Model, learned: set[str]) -> None:
    """Scales become numbers and buffers again."""
    ops = torch.ops.quantized_decomposed
    tensors: dict[str, nn.Parameter] = {n: p for n, p in model.named_parameters() if n in learned}
    for node in list(model.nodes):
        scale: Any = node.args[1] if len(node.args) > 1 else None
        if not isinstance(scale, Node) or str(scale.target) not in tensors:
            continue
        name = packet(node)
        if name.endswith("quantize_per_tensor"):
            zero: Any = node.args[2]
            node.target = getattr(ops, name).default
            settings = (float(tensors[str(scale.target)].detach()), int(model.tensor(zero)))
            node.args = (node.args[0], *settings, *node.args[3:])
    for name, value in tensors.items():
        if any(n.op == "get_attr" and str(n.target) == name and n.users for n in model.nodes):
            model.set_tensor(name, value.detach())
    model.tidy()

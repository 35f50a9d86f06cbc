"""The table of rules, and what several families of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.sources.keras import layers
from packlight.sources.keras.translate import Builder, Rule, Value

RULES: dict[str, Rule] = {}


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU, "selu": nn.SELU,
    "softplus": nn.Softplus, "softsign": nn.Softsign, "silu": nn.SiLU, "swish": nn.SiLU, "gelu": nn.GELU,
    "mish": nn.Mish, "hard_sigmoid": nn.Hardsigmoid, "hard_silu": nn.Hardswish, "hard_swish": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.2), "exponential": lambda: layers.Do(torch.exp),
    "softmax": lambda: nn.Softmax(-1), "log_softmax": lambda: nn.LogSoftmax(-1),
}  # fmt: skip


_ALONG = ("softmax", "log_softmax")  # of the last axis; all others are of every element


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Put a rule into the table under names of classes."""

    def put(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return put


def array(variable: Any) -> Tensor:
    """A copy of a Keras variable's value."""
    value = variable.value
    return torch.from_numpy(np.array((value() if callable(value) else value).detach().cpu()))


def fill(parameter: Any, variable: Any, order: Sequence[int] | None = None) -> None:
    """Copy a variable's value, its axes in another order, and whether it is trained."""
    value = array(variable)
    with torch.no_grad():
        parameter.copy_((value if order is None else value.permute(*order)).reshape(parameter.shape))
    parameter.requires_grad_(bool(variable.trainable))


def activated(b: Builder, layer: Any, made: Value) -> Value:
    """A layer's result behind its own activation."""
    return activation(b, layer.activation, f"{layer.name}activation", made)


def activation(b: Builder, function: Any, name: str, value: Value) -> Value:
    """A value behind an activation that Keras knows by name."""
    kind = getattr(function, "__name__", str(function))
    if kind == "linear":
        return value
    if kind not in ACTIVATIONS:
        raise PacklightError(f"no activation {kind!r}; there are linear, {', '.join(ACTIVATIONS)}")
    value = b.plain(value) if kind in _ALONG else value
    return b.add(name, ACTIVATIONS[kind](), [value], value.rank, value.first)


def check_last(layer: Any) -> None:
    """Raise PacklightError for a layer whose channels stand first."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise PacklightError("only channels_last")

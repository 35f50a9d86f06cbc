"""Rules: a Keras layer's class → steps of a torch module, weights carried over. Each family is a module that fills the
table."""

from __future__ import annotations

from typing import Any

from packlight.sources.keras.rules import activations, norms, places, sequences, weights  # noqa: F401  (they fill it)
from packlight.sources.keras.rules.common import RULES
from packlight.sources.keras.translate import Builder, Rule, Value, translate


def rule_of(operation: Any) -> Rule | None:
    """By class name, of Keras' own classes alone; a network inside another is one, too."""
    if hasattr(operation, "_nodes_by_depth") or getattr(operation, "_functional", None) is not None:
        return _network
    own = type(operation).__module__.split(".")[0] == "keras"
    return RULES.get(type(operation).__name__) if own else None


def _network(b: Builder, network: Any, reads: list[Value], _: Any) -> Any:
    return translate(b, network, [b.plain(v) for v in reads])

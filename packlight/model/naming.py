"""Give every operator the name by which the user knows it."""

from __future__ import annotations

from collections import Counter

from torch.fx import Node

from packlight.model.model import Model
from packlight.model.operators import kind, packet


def name_layers(model: Model) -> None:
    """Write `meta["layer"]`, unique, on every operator node (in place) from torch's module stack.

    A module that computes one thing lends its own name ("layer1.0.conv1"); an operator written in a
    module's forward gets that module's name plus the operator's ("layer1.0.add", "layer1.0.relu_1").
    """
    nodes = [n for n in model.nodes if n.op == "call_function" and kind(n) != "size"]
    owners = {n: owner_of(n) for n in nodes}
    main = {n for n in nodes if kind(n) != "create" and packet(n) not in ("getitem", "detach", "alias")}
    alone = Counter(owners[n] for n in main)
    prefixes = {p for o in owners.values() for p in _parents(o)}
    taken: Counter[str] = Counter()
    for node in nodes:
        owner = owners[node]
        own = owner and owner not in prefixes and (node in main and alone[owner] == 1)
        base = owner if own else f"{owner}.{packet(node)}" if owner else packet(node)
        while True:
            name = f"{base}_{taken[base]}" if taken[base] else base
            taken[base] += 1
            if name == base or name not in taken:
                break
        taken[name] += name != base
        node.meta["layer"] = name
        node.meta.pop("nn_module_stack", None)


def owner_of(node: Node) -> str:
    """The dotted name of the innermost user module that made an exported node, "" for the network itself."""
    stack: dict[str, tuple[str, object]] = node.meta.get("nn_module_stack") or {}
    paths = [path.split("@")[0] for path, _ in stack.values()]
    real = [p for p in paths if not p.startswith("_empty_nn_module_stack")]
    return real[-1] if real else ""


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]

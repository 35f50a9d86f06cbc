"""What training changes in a network: the same module exported in both modes, compared operator by operator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from torch.fx import Graph, Node

from packlight.model.naming import owner_of
from packlight.model.operators import ASSERTIONS, MODE_ARGUMENTS, argument, kind, packet
from packlight.sources.functional import takes_all

Pairs = list[tuple[Node, Node]]


def record_modes(graph: Graph, training: Graph) -> list[str]:
    """Write `meta["modes"]` on every node of the eval graph that training changes (in place).

    Returns notes on what training does that the eval graph cannot: operators that only one mode has (a Python branch
    on self.training, stochastic depth) and constants that differ.
    """
    pairs, mine, theirs = _align(_operators(graph), _operators(training))
    notes = [f"{_called(o)}: left out, as only train mode runs it: {_names(n)}" for o, n in theirs.items()]
    notes += [f"{_called(o)}: kept in train mode, though only eval mode runs it: {_names(n)}" for o, n in mine.items()]
    for here, there in pairs:
        modes = {a: (argument(here, a), argument(there, a)) for a in MODE_ARGUMENTS.get(packet(here), ())}
        changed = {a: v for a, v in modes.items() if v[0] != v[1] and all(map(_is_plain, v))}
        if changed:
            here.meta["modes"] = changed
        elif not modes and owner_of(here) not in mine | theirs:
            constants = zip(_constants(here), _constants(there), strict=False)
            differing = next(((a, b) for a, b in constants if None not in (a, b) and a != b), None)
            if differing:
                notes.append(f"{_called(owner_of(here))}: {packet(here)} uses {differing[0]} in eval mode and "
                             f"{differing[1]} in train mode; the former is kept in both")  # fmt: skip
    return notes


def _operators(graph: Graph) -> list[Node]:
    """What can be compared: no arithmetic on sizes, no assertions, no counting of batches by batch norm."""
    return [
        n for n in graph.nodes
        if n.op == "call_function" and kind(n) != "size" and packet(n) not in ASSERTIONS
        and not takes_all(n) and not _counts_batches(n)
    ]  # fmt: skip


def _counts_batches(node: Any) -> bool:
    while isinstance(node, Node) and packet(node) == "add_":
        node = node.args[0]
        if str(node).endswith("num_batches_tracked"):
            return True
    return False


def _align(mine: list[Node], theirs: list[Node]) -> tuple[Pairs, dict[str, list[Node]], dict[str, list[Node]]]:
    """Nodes that correspond, and those of either graph that do not, by the module that owns them."""
    keys, their_keys = ([(owner_of(n), packet(n)) for n in nodes] for nodes in (mine, theirs))
    if keys == their_keys:
        return list(zip(mine, theirs, strict=True)), {}, {}
    pairs: Pairs = []
    only_mine: dict[str, list[Node]] = {}
    only_theirs: dict[str, list[Node]] = {}
    for tag, a, b, c, d in SequenceMatcher(None, keys, their_keys, autojunk=False).get_opcodes():
        if tag == "equal":
            pairs += zip(mine[a:b], theirs[c:d], strict=True)
            continue
        for left, nodes in ((only_mine, mine[a:b]), (only_theirs, theirs[c:d])):
            for node in nodes:
                left.setdefault(owner_of(node), []).append(node)
    return pairs, only_mine, only_theirs


def _called(owner: str) -> str:
    return f"layer {owner!r}" if owner else "the network's forward"


def _names(nodes: list[Node]) -> str:
    return ", ".join(dict.fromkeys(packet(n) for n in nodes))


def _constants(node: Node) -> Iterator[Any]:
    """Constant arguments in order; None where there is none, so that positions stay comparable."""
    for value in (*node.args, *node.kwargs.values()):
        for item in value if isinstance(value, list | tuple) else (value,):
            yield item if _is_plain(item) else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int) or (isinstance(value, float) and not math.isnan(value))

"""How the outputs of an exported program nest, from the description in its file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from packlight.errors import PacklightError
from packlight.model.graph_json import read_text
from packlight.model.spec import Structure

_LISTS, _TUPLES = ("builtins.list",), ("builtins.tuple", "torch.Size")


def read_structure(calls: Sequence[Mapping[str, Any]], outputs: Sequence[str | None]) -> Structure:
    """calls: the file's `module_call_graph`. outputs: the flat outputs in order, None for one that is None."""
    signature = next((c.get("signature") for c in calls if c.get("fqn") == ""), None)
    if not signature or not signature.get("out_spec"):
        return {"tuple": _counted(outputs)} if len(outputs) != 1 else _counted(outputs)[0]
    _, written = json.loads(signature["out_spec"])
    return _walk(written, iter(_counted(outputs)), 0)


def _counted(outputs: Sequence[str | None]) -> list[int | None]:
    count, made = 0, []
    for output in outputs:
        made.append(None if output is None else count)
        count += output is not None
    return made


def _walk(spec: Mapping[str, Any], leaves: Iterator[int | None], depth: int) -> Structure:
    children = spec["children_spec"]
    if depth > 50:
        raise PacklightError("its outputs nest deeper than 50")
    if spec["type"] is None:
        found = next(leaves, -1)
        if found == -1:
            raise PacklightError("its outputs are fewer than their description says")
        return found
    made = [_walk(c, leaves, depth + 1) for c in children]
    if spec["type"] in _LISTS:
        return {"list": made}
    if spec["type"] in _TUPLES or "namedtuple" in str(spec["type"]):
        return {"tuple": made}
    return {"dict": dict(zip(_keys(spec.get("context"), len(made)), made, strict=True))}


def _keys(context: Any, count: int) -> list[str]:
    """Keys of a dict or of an output class: the first list of `count` texts in the description."""
    try:
        found = json.loads(context) if isinstance(context, str) else context
    except ValueError:
        found = None
    pending = [found]
    while pending:
        held = pending.pop(0)
        if isinstance(held, list) and len(held) == count and all(isinstance(k, str | int) for k in held):
            return [read_text(str(k)) for k in held]
        if isinstance(held, list):
            pending += held
        elif isinstance(held, dict):
            pending += held.values()
    return [str(i) for i in range(count)]

"""Branches and loops: what is known when the file is read decides, and loops are written out."""

from __future__ import annotations

from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.op import NeedsConstant, Op, Rule, axis_of
from packlight.sources.onnx.values import Constant, Sizes, Value

aten = torch.ops.aten
_MOST_TURNS = 1000


def if_(op: Op, condition: Any) -> Any:
    """A known condition takes one branch; else both are computed and one result is chosen, where shapes agree."""
    if not isinstance(condition, Value):
        return op.subgraph("then_branch" if op.number(condition, "condition") else "else_branch")
    yes, no = op.subgraph("then_branch"), op.subgraph("else_branch")
    for a, b in zip(yes, no, strict=True):
        if isinstance(a, list) or isinstance(b, list) or op.shape(a) != op.shape(b):
            raise NeedsConstant("If between results of different shapes, on a condition that is computed; packlight "
                                "needs it to be known when the file is read")  # fmt: skip
    flag = op.call(aten.reshape.default, condition, [])
    return [op.call(aten.where.self, flag, a, b) for a, b in zip(yes, no, strict=True)]


def loop(op: Op, turns: Any, condition: Any, *carried: Any) -> Any:
    """Written out; the number of turns must be known, and a condition that ends it before, too."""
    count = _MOST_TURNS + 1 if turns is None else int(op.number(turns, "number of turns"))
    going = True if condition is None else bool(op.number(condition, "condition"))
    state, rows = list(carried), []
    turn = 0
    while going and turn < count:
        if turn >= _MOST_TURNS:
            raise PacklightError(f"a Loop of more than {_MOST_TURNS} turns; packlight writes loops out")
        again, *made = op.subgraph("body", op.constant(turn, torch.int64), op.constant(True), *state)
        state, row = made[: len(state)], made[len(state) :]
        rows.append(row)
        going = bool(op.number(again, "condition of the next turn"))
        turn += 1
    if not rows and op.outputs > len(state):
        raise PacklightError("a Loop of no turns that stacks its results; packlight does not know their shape")
    return [*state, *(op.call(aten.stack.default, list(column), 0) for column in zip(*rows, strict=True))]


def scan(op: Op, *inputs: Any) -> Any:
    """Written out along an axis of fixed size."""
    if op.version < 9:
        raise PacklightError("Scan of operator set 8; packlight takes 9 and newer")
    count = op.attribute("num_scan_inputs")
    state, sequences = list(inputs[:-count]), inputs[-count:]
    into = op.attribute("scan_input_axes") or [0] * count
    turned = op.attribute("scan_input_directions") or [0] * count
    axes = [axis_of(a, x.rank) for a, x in zip(into, sequences, strict=True)]
    steps = op.fixed(sequences[0], axes[0])
    if steps > _MOST_TURNS:
        raise PacklightError(f"a Scan of more than {_MOST_TURNS} steps; packlight writes loops out")
    rows = []
    for t in range(steps):
        places = [steps - 1 - t if back else t for back in turned]
        given = [op.call(aten.select.int, x, a, p) for x, a, p in zip(sequences, axes, places, strict=True)]
        made = op.subgraph("body", *state, *given)
        state = made[: len(state)]
        rows.append(made[len(state) :])
    columns = list(zip(*rows, strict=True))
    out = op.attribute("scan_output_axes") or [0] * len(columns)
    back = op.attribute("scan_output_directions") or [0] * len(columns)
    stacked = [op.call(aten.stack.default, list(c[::-1] if b else c), a)
               for c, a, b in zip(columns, out, back, strict=True)]  # fmt: skip
    return [*state, *stacked]


def sequence_construct(op: Op, *items: Any) -> Any:
    return [list(items)]


def sequence_empty(op: Op) -> Any:
    return [[]]


def sequence_insert(op: Op, sequence: list[Any], item: Any, place: Any = None) -> Any:
    made, at = list(sequence), int(op.number(place, "place", len(sequence)))
    made.insert(at, item)
    return [made]


def sequence_erase(op: Op, sequence: list[Any], place: Any = None) -> Any:
    made = list(sequence)
    del made[int(op.number(place, "place", -1))]
    return [made]


def sequence_at(op: Op, sequence: list[Any], place: Any) -> Any:
    return sequence[int(op.number(place, "place"))]


def sequence_length(op: Op, sequence: list[Any]) -> Any:
    return op.constant(len(sequence), torch.int64)


def concat_from_sequence(op: Op, sequence: list[Any]) -> Any:
    target = aten.stack.default if op.attribute("new_axis", 0) else aten.cat.default
    return op.call(target, list(sequence), op.attribute("axis"))


def split_to_sequence(op: Op, x: Any, sizes: Any = None) -> Any:
    axis, keep = axis_of(op.attribute("axis", 0), x.rank), bool(op.attribute("keepdims", 1))
    whole = op.fixed(x, axis)
    given = op.numbers(sizes, "split")
    if given is None:
        given = [1] * whole
    elif isinstance(sizes, Constant | Sizes) and sizes.rank == 0:
        given = [min(given[0], whole - i) for i in range(0, whole, given[0])]
    parts = op.call(aten.split_with_sizes.default, x, given, axis)
    if sizes is None and not keep:
        parts = [op.call(aten.squeeze.dims, p, [axis]) for p in parts]
    return [parts]


RULES: dict[str, Rule] = {
    "If": if_, "Loop": loop, "Scan": scan, "SequenceConstruct": sequence_construct, "SequenceEmpty": sequence_empty,
    "SequenceInsert": sequence_insert, "SequenceErase": sequence_erase, "SequenceAt": sequence_at,
    "SequenceLength": sequence_length, "ConcatFromSequence": concat_from_sequence,
    "SplitToSequence": split_to_sequence,
}  # fmt: skip

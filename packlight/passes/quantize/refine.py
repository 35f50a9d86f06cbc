"""From damages of single layers to bits that are good together.

Damages do not add up: what several layers do wrong is worse, or better, than the sum of what each does alone. So the
solution of the integer programme is measured as a whole and compared with equal bits for all; from the better of them
on, damages of one choice up and down are measured beside the other layers' bits, the programme is solved again on
those, and its solution taken where it measures better, until one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Node

from packlight.errors import PacklightError
from packlight.passes.quantize.mixed import Damage, Roundings, assign, damages_beside
from packlight.passes.quantize.presets import equal_bits
from packlight.passes.sensitivity.change import Changes

_ROUNDS = 3


@dataclass(frozen=True)
class Choice:
    """bits: of each layer. predicted: sum of single damages, nan for one that was solved beside others. measured:
    distance of the outputs with all layers rounded."""

    bits: Mapping[Node, int]
    predicted: float
    measured: float


@dataclass(frozen=True)
class Chosen:
    """equal: all layers alike, as many bits as fit; None where none fits. solved: the integer programme's solution.
    best: what is kept."""

    equal: Choice | None
    solved: Choice
    best: Choice

    def notes(self, what: str) -> list[str]:
        """What was measured, in words. what: the distance."""
        solved, best = self.solved, self.best
        found = [
            f"bits by layer: {what} on calibration data {solved.predicted:.3g} as the sum of single layers', "
            f"{solved.measured:.3g} measured together"
        ]
        if best is not solved and best is not self.equal:
            found.append(f"bits by layer: {best.measured:.3g} after exchanges measured beside the other layers' bits")
        if self.equal is None:
            return found
        if best is self.equal:
            found.append(f"bits by layer: equal bits measure better, {best.measured:.3g}, so all layers keep the same")
        else:
            found.append(f"bits by layer: {self.equal.measured:.3g} with equal bits")
        return found


def choose(
    changes: Changes, forms: Roundings, table: Sequence[Damage], mean_bits: float, fixed: Mapping[Node, int]
) -> Chosen:
    """Bits of every layer of `forms` within a mean. table: single damages, a row a layer in order. fixed: layers that
    have theirs."""
    nodes = list(forms.weights)
    names = dict(zip((row.layer for row in table), nodes, strict=True))
    held = {row.layer: fixed[node] for row, node in zip(table, nodes, strict=True) if node in fixed}

    def solve(rows: Sequence[Damage]) -> dict[Node, int]:
        return {names[name]: bits for name, bits in assign(rows, mean_bits, held).items()}

    found = solve(table)
    by_node = dict(zip(nodes, table, strict=True))
    solved = Choice(found, sum(by_node[n].change[b] for n, b in found.items()), _measured(changes, forms, found))
    equal = _equal(changes, forms, table, mean_bits, fixed)
    best = solved if equal is None or solved.measured < equal.measured else equal
    for _ in range(_ROUNDS):
        near = {n: [best.bits[n]] if n in fixed else _near(forms.choices, best.bits[n]) for n in nodes}
        found = solve(damages_beside(changes, forms, near, best.bits))
        if found == best.bits:
            break
        made = Choice(found, float("nan"), _measured(changes, forms, found))
        if made.measured >= best.measured:
            break
        best = made
    return Chosen(equal, solved, best)


def _measured(changes: Changes, forms: Roundings, bits: Mapping[Node, int]) -> float:
    return changes.whole({n: forms.rounded(n, b) for n, b in bits.items()})


def _equal(
    changes: Changes, forms: Roundings, table: Sequence[Damage], mean_bits: float, fixed: Mapping[Node, int]
) -> Choice | None:
    sizes = {n: w.numel() for n, w in forms.weights.items()}
    try:
        bits = equal_bits(forms, sizes, fixed, mean_bits)
    except PacklightError:
        return None
    alone = sum(row.change[bits[n]] for row, n in zip(table, sizes, strict=True))
    return Choice(bits, alone, _measured(changes, forms, bits))


def _near(choices: Sequence[int], bits: int) -> list[int]:
    """A number of bits and its neighbours among the choices."""
    i = sorted(choices).index(bits)
    return sorted(choices)[max(0, i - 1) : i + 2]

"""Which units go: ranked within a family or over all, until what is left keeps to a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import matching
from packlight.model.operators import macs
from packlight.model.shapes import propagate, shape_of
from packlight.passes.prune.groups import Family, Flags, Groups
from packlight.passes.prune.labels import Array
from packlight.passes.prune.walk import Labelled, sizes_along

_STEPS = 24  # halvings of the interval in which the width is searched


@dataclass(frozen=True, eq=False)
class Ranked:
    """A family's units from the least to the most important. units: [n, m] atoms. scores: [n], normalised."""

    family: Family
    units: Array
    scores: NDArray[np.float64]


def ranked(groups: Groups, families: Sequence[Family], classes: NDArray[np.float64], normalise: str) -> list[Ranked]:
    """Units of rows are put together from the worst of every row, the second worst, and so on."""
    found = []
    for family in families:
        single = groups.free(family)
        value = {a: float(classes[_counted(groups, a, single)].sum()) for a in family.rows.ravel().tolist()}
        rows = [sorted(r, key=lambda a: (value[a], a)) for r in family.rows.tolist()]
        units = np.array(rows).T
        scores = np.array([sum(value[a] for a in unit) for unit in units.tolist()])
        found.append(Ranked(family, units, _normalised(scores, normalise)))
    return found


def _counted(groups: Groups, atom: int, single: bool) -> Any:
    return groups.members[atom] if single else np.flatnonzero(groups.closure(groups.members[atom]))


def _normalised(scores: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    scale = {"mean": scores.mean(), "max": scores.max(), "sum": scores.sum(), "none": 1.0}.get(how)
    if scale is None:
        raise PacklightError(f"scores are normalised by mean, max, sum or none, got {how!r}")
    return scores / scale if scale > 0 else scores


def chosen_families(groups: Groups, kinds: Sequence[str], exclude: Sequence[str]) -> list[Family]:
    """Families of these kinds without what excluded layers give out. Of heads and of their width, heads are cut."""
    layers = groups.labelled.model.layers()
    held = np.zeros(groups.count, bool)
    for name in matching(list(layers), exclude) if exclude else ():
        found = groups.labelled.layouts[layers[name]]
        for layout in found if isinstance(found, list) else [found]:
            for axis in layout:
                if axis is not None:
                    held[groups.classes[axis.labels]] = True
    wanted = []
    covered: set[int] = set()
    for family in groups.families:
        if family.kind not in kinds:
            continue
        gone = groups.closure(groups.unit(family.rows.ravel()))
        if (gone & held).any():
            continue
        wanted.append(family)
        if family.kind == "heads":
            covered |= set(groups.atoms[np.flatnonzero(gone)].tolist())
    return [f for f in wanted if f.kind == "heads" or not covered & set(f.rows.ravel().tolist())]


def choose(
    groups: Groups, units: Sequence[Ranked], keep: float, by: str, scope: str, multiple: int, least: float
) -> Flags:
    """[classes]: what goes. keep: share of `by` that may stay. least: share of every family that stays at least."""
    cost = _COSTS[by](groups) if by in _COSTS else None
    whole = cost(np.zeros(groups.count, bool)) if cost else 1.0
    plan = _by_layer if scope == "layer" else _over_all
    cuts = _Cuts(groups)

    def gone(share: float) -> Flags:
        return cuts.gone(plan(units, share, multiple, least))

    if cost is None:
        return gone(keep)
    low, high = 0.0, 1.0  # shares of units; what `low` leaves is within the budget where anything is
    best = gone(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = gone(middle)
        if cost(found) <= keep * whole:
            low, best = middle, found
        else:
            high = middle
        if high - low < 1e-4:
            break
    return best


def _by_layer(units: Sequence[Ranked], share: float, multiple: int, least: float) -> list[tuple[Ranked, int]]:
    """How many units of each family go when each keeps the same share."""
    return [(r, len(r.units) - _rounded(max(share, least) * len(r.units), len(r.units), multiple)) for r in units]


def _over_all(units: Sequence[Ranked], share: float, multiple: int, least: float) -> list[tuple[Ranked, int]]:
    """The same when units of all families are ranked together."""
    scores = np.sort(np.concatenate([r.scores for r in units]))
    cut = len(scores) - math.ceil(share * len(scores))
    threshold = scores[cut - 1] if cut > 0 else -math.inf
    found = []
    for r in units:
        stay = max(int((r.scores > threshold).sum()), least * len(r.units))
        found.append((r, len(r.units) - _rounded(stay, len(r.units), multiple)))
    return found


def _rounded(stay: float, size: int, multiple: int) -> int:
    """How many of `size` stay: a multiple where the family has more than that, one at least."""
    if multiple > 1 and size > multiple:
        return min(size, max(multiple, multiple * round(stay / multiple)))
    return min(size, max(1, round(stay)))


class _Cuts:
    """What goes when so many units of each family do: a unit goes where what it leaves is a network, given what went
    before it.

    Plans differ in how many go, so that most units die as they did in the plan before: what died with a unit is kept
    beside the state of all that was looked at to find it.
    """

    def __init__(self, groups: Groups):
        self.groups = groups
        self.known: dict[tuple[int, ...], tuple[Array, bytes, Array]] = {}  # unit → around it, its state, what dies

    def gone(self, plan: Sequence[tuple[Ranked, int]]) -> Flags:
        gone = np.zeros(self.groups.count, bool)
        for ranking, count in plan:
            if self.groups.free(ranking.family):
                gone[self.groups.unit(ranking.units[:count].ravel())] = True
                continue
            for unit in ranking.units[:count].tolist():
                gone[self._dying(tuple(unit), gone)] = True
        return gone

    def _dying(self, unit: tuple[int, ...], gone: Flags) -> Array:
        """The classes that go with a unit; none where what they leave would be no network."""
        if unit in self.known:
            around, state, dying = self.known[unit]
            if gone[around].tobytes() == state:
                return dying
        groups, classes, seen = self.groups, self.groups.unit(unit), set[int]()
        found = groups.closure(classes, gone, seen)
        dying = np.flatnonzero(found & ~gone)
        around = groups.around(seen, dying)
        around = around if np.isin(classes, around).all() else np.union1d(around, classes)
        wrong = groups.whole(found, dying)
        self.known[unit] = around, gone[around].tobytes(), dying if wrong is None else dying[:0]
        return self.known[unit][2]


# what a network costs when some of it is gone


def share_left(groups: Groups, by: str, gone: Flags) -> float | None:
    """The share of params, macs or bytes that stays; None of what is not counted."""
    if by not in _COSTS:
        return None
    cost = _COSTS[by](groups)
    whole = cost(np.zeros(groups.count, bool))
    return cost(gone) / whole if whole else 1.0


def params_left(groups: Groups) -> Callable[[Flags], float]:
    """The parameters that stay when classes are gone."""
    names = {n for n, _ in groups.labelled.model.named_parameters()}
    return _elements(groups, dict.fromkeys(names, 1))


def _bytes(groups: Groups) -> Callable[[Flags], float]:
    return _elements(groups, {n: t.element_size() for n, t in groups.labelled.model.named_tensors().items()})


def _elements(groups: Groups, weights: Mapping[str, int]) -> Callable[[Flags], float]:
    """The elements of tensors, each times its weight."""
    nodes = {str(n.target): n for n in groups.labelled.layouts if n.op == "get_attr"}
    wanted = [(w, shape_of(nodes[n]), groups.labelled.layouts[nodes[n]]) for n, w in weights.items() if n in nodes]

    def cost(gone: Flags) -> float:
        alive = groups.alive(gone)
        return float(sum(w * math.prod(_after(shape, shape, layout, alive)) for w, shape, layout in wanted))

    return cost


def _macs(groups: Groups) -> Callable[[Flags], float]:
    labelled = groups.labelled
    seen = {node: shape_of(node) for node in labelled.layouts}
    real = _usual_shapes(labelled)
    nodes = [n for n in labelled.layouts if n.op == "call_function" and macs(n, lambda x: real.get(x, ()))]

    def cost(gone: Flags) -> float:
        alive = groups.alive(gone)

        def shape(value: Any) -> tuple[int, ...]:
            layout = labelled.layouts.get(value, ()) if isinstance(value, Node) else ()
            if isinstance(layout, list):
                return real.get(value, ())
            return _after(seen.get(value, ()), real.get(value, ()), layout, alive)

        return float(sum(macs(n, shape) for n in nodes))

    return cost


def _usual_shapes(labelled: Labelled) -> dict[Node, tuple[int, ...]]:
    """Shapes at batch 1 and the sizes seen at export."""
    twin = labelled.model.copy(share_tensors=True)
    propagate(twin, **({"batch": 1} if "batch" in twin.dims else {}))
    return {mine: shape_of(theirs) for mine, theirs in zip(labelled.layouts, twin.nodes, strict=True)}


def _after(seen: Sequence[int], real: Sequence[int], layout: Any, alive: Array) -> tuple[int, ...]:
    if not layout:
        return tuple(real)
    return tuple(
        r if axis is None else max(1, r * sizes_along(axis, alive) // s)
        for s, r, axis in zip(seen, real, layout, strict=True)
    )


_COSTS: dict[str, Callable[[Groups], Callable[[Flags], float]]] = {
    "params": params_left, "macs": _macs, "bytes": _bytes,
}  # fmt: skip
BY = ("params", "macs", "bytes", "channels", "latency")

"""Which units go: ranked within a family or over all, until what is left keeps to a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.model import matching
from packlight.passes.prune.costs import COSTS
from packlight.passes.prune.groups import Family, Flags, Groups
from packlight.passes.prune.labels import Array

_STEPS = 24  # halvings of the interval in which the width is searched


@dataclass(frozen=True, eq=False)
class Ranked:
    """A family's units from the least to the most important. units: [n, m] atoms. scores: [n], normalised. share: in
    (0, 1], of the units that stays whatever the rest does; None: as the budget asks."""

    family: Family
    units: Array
    scores: NDArray[np.float64]
    share: float | None = None


def ranked(
    groups: Groups, families: Sequence[Family], classes: NDArray[np.float64], normalise: str,
    layers: Mapping[str, float] = MappingProxyType({}),
) -> list[Ranked]:  # fmt: skip
    """Units of rows are put together from the worst of every row, the second worst, and so on. layers: shares by
    layer-name pattern."""
    found = []
    for family, share in zip(families, _shares(groups, families, layers), strict=True):
        single = groups.free(family)
        value = {a: float(classes[_counted(groups, a, single)].sum()) for a in family.rows.ravel().tolist()}
        rows = [sorted(r, key=lambda a: (value[a], a)) for r in family.rows.tolist()]
        units = np.array(rows).T
        scores = np.array([sum(value[a] for a in unit) for unit in units.tolist()])
        found.append(Ranked(family, units, _normalised(scores, normalise), share))
    return found


def _shares(groups: Groups, families: Sequence[Family], layers: Mapping[str, float]) -> list[float | None]:
    """Of every family that cuts what a layer of a pattern gives out; of several patterns the last counts."""
    cuts = [_touched(groups, f) for f in families] if layers else []
    found: list[float | None] = [None] * len(families)
    for pattern, share in layers.items():
        named = _given_out(groups, (pattern,))
        hit = [i for i, cut in enumerate(cuts) if (cut & named).any()]
        if not hit:
            raise PacklightError(f"no layer that {pattern} names can be pruned: it holds no share of its own")
        for i in hit:
            found[i] = share
    return found


def _touched(groups: Groups, family: Family) -> Flags:
    """[classes]: all that goes with any unit of a family."""
    return groups.closure(groups.unit(family.rows.ravel()))


def _counted(groups: Groups, atom: int, single: bool) -> Any:
    return groups.members[atom] if single else np.flatnonzero(groups.closure(groups.members[atom]))


def _normalised(scores: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    scale = {"mean": scores.mean(), "max": scores.max(), "sum": scores.sum(), "none": 1.0}.get(how)
    if scale is None:
        raise PacklightError(f"scores are normalised by mean, max, sum or none, got {how!r}")
    return scores / scale if scale > 0 else scores


def chosen_families(groups: Groups, kinds: Sequence[str], exclude: Sequence[str]) -> list[Family]:
    """Families of these kinds without what excluded layers give out. Of heads and of their width, heads are cut."""
    held = _given_out(groups, exclude)
    wanted = []
    covered: set[int] = set()
    for family in groups.families:
        if family.kind not in kinds:
            continue
        gone = _touched(groups, family)
        if (gone & held).any():
            continue
        wanted.append(family)
        if family.kind == "heads":
            covered |= set(groups.atoms[np.flatnonzero(gone)].tolist())
    return [f for f in wanted if f.kind == "heads" or not covered & set(f.rows.ravel().tolist())]


def _given_out(groups: Groups, patterns: Sequence[str]) -> Flags:
    """[classes]: what the layers of these name patterns give out."""
    layers = groups.labelled.model.layers()
    held = np.zeros(groups.count, bool)
    for name in matching(list(layers), patterns) if patterns else ():
        found = groups.labelled.layouts[layers[name]]
        for layout in found if isinstance(found, list) else [found]:
            for axis in layout:
                if axis is not None:
                    held[groups.classes[axis.labels]] = True
    return held


def choose(
    groups: Groups, units: Sequence[Ranked], keep: float, by: str, scope: str, multiple: int, least: float,
    threshold: float | None = None,
) -> Flags:  # fmt: skip
    """[classes]: what goes. keep: share of `by` that may stay. least: share of every family that stays at least.
    threshold: instead of a budget, units of at most this score go."""
    cost = COSTS[by](groups) if by in COSTS else None
    whole = cost(np.zeros(groups.count, bool)) if cost else 1.0
    plan = _by_layer if scope == "layer" else _over_all
    cuts = _Cuts(groups)

    def gone(share: float) -> Flags:
        return cuts.gone(plan(units, share, multiple, least))

    if threshold is not None:
        return cuts.gone(_above(units, threshold, multiple, least))
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
    return [_going(r, max(share, least) * len(r.units), multiple) for r in units]


def _over_all(units: Sequence[Ranked], share: float, multiple: int, least: float) -> list[tuple[Ranked, int]]:
    """The same when units of all families are ranked together."""
    scores = np.sort(np.concatenate([r.scores for r in units if r.share is None] or [np.zeros(0)]))
    cut = len(scores) - math.ceil(share * len(scores))
    return _above(units, scores[cut - 1] if cut > 0 else -math.inf, multiple, least)


def _above(units: Sequence[Ranked], threshold: float, multiple: int, least: float) -> list[tuple[Ranked, int]]:
    """The same when units of at most a score go."""
    return [_going(r, max(int((r.scores > threshold).sum()), least * len(r.units)), multiple) for r in units]


def _going(ranking: Ranked, stay: float, multiple: int) -> tuple[Ranked, int]:
    """A family and how many of its units go, where so many may stay."""
    size = len(ranking.units)
    stay = stay if ranking.share is None else ranking.share * size
    return ranking, size - _rounded(stay, size, multiple)


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

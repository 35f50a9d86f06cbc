"""How much a network loses when one family of its channels is cut alone.

Every family in turn keeps a share of its units while all others stay whole, and the network is scored without training
(Li et al. 2017, arXiv 1608.08710, section 3.2 and figure 2b). Given data, least squares and new batch-norm statistics
come in as they do in `prune`. What is judged here is thrown away, so nothing is proven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from packlight.errors import PacklightError
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.model import Model, patterns_of
from packlight.passes.prune import Pruning, prunable
from packlight.passes.prune.choose import choose, chosen_families, ranked
from packlight.passes.prune.compensate import compensated
from packlight.passes.prune.prune import cut_of
from packlight.passes.prune.scores import NEEDS_DATA, class_scores
from packlight.passes.renorm import rebase, renorm
from packlight.search.pruning.prune import evidence_of
from packlight.task import Task

SHARES = (0.75, 0.5, 0.25)


@dataclass(frozen=True)
class Sensitivity:
    """A family cut alone. units: how many it has. shares: of them that were kept. drop: how much worse the network got
    at each, paired, in the metric's units."""

    name: str
    kind: str
    units: int
    shares: tuple[float, ...]
    drop: tuple[Measurement, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "units": self.units, "shares": list(self.shares),
            "drop": [m.as_json() for m in self.drop],
        }  # fmt: skip


def sensitivity(
    model: Model,
    task: Task,
    options: Pruning = Pruning(),
    *,
    shares: Sequence[float] = SHARES,
    samples: int = 1000,
    calibration: Sequence[tuple[Tensor, ...]] = (),
    on_stage: Callable[[str], None] = lambda text: None,
) -> list[Sensitivity]:
    """One for each family that `options` would cut. shares: in (0, 1). samples: >= 1, of the validation data,
    and of the training data where the score looks at it."""
    if samples < 1 or not shares or not all(0 < s < 1 for s in shares):
        raise PacklightError(f"sensitivity needs samples >= 1 and shares in (0, 1), got {samples} and {list(shares)}")
    judge = replace(task, validation=task.data("validation").take(samples))
    before = evaluate(model, judge, "validation")
    model = rebase(model, calibration) if calibration else model
    groups = prunable(model)
    families = chosen_families(groups, options.kinds, patterns_of(options.exclude))
    evidence = evidence_of(model, task, samples) if options.score in NEEDS_DATA else None
    scores = class_scores(groups, options.score, evidence, options.seed)
    found = []
    for i, family in enumerate(families):
        on_stage(f"cutting {family.name} alone ({i + 1} of {len(families)})")
        units = ranked(groups, [family], scores, options.normalise)
        drops = []
        for share in shares:
            gone = choose(groups, units, share, "channels", "layer", 1, 0.0)
            whole = groups.labelled
            whole = whole.on(compensated(groups, gone, calibration)) if calibration else whole
            made = cut_of(whole, groups.alive(gone))
            made = renorm(made, calibration) if calibration else made
            drops.append(evaluate(made, judge, "validation").drop_from(before))
        found.append(Sensitivity(family.name, family.kind, len(family), tuple(shares), tuple(drops)))
    return found

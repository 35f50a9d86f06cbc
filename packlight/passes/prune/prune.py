"""Structured pruning: a physically smaller network, each cut of which is proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model import Model, Step, patterns_of
from packlight.model.lineage import options_of
from packlight.passes.prune.choose import choose, chosen_families, ranked
from packlight.passes.prune.compensate import compensated
from packlight.passes.prune.costs import BY, share_left
from packlight.passes.prune.cut import cut
from packlight.passes.prune.groups import Family, Flags, Groups
from packlight.passes.prune.labels import Array
from packlight.passes.prune.proof import disagreement
from packlight.passes.prune.scores import NAMES, Evidence, Values, class_scores
from packlight.passes.prune.walk import Labelled, label, unusual_sizes
from packlight.passes.renorm import rebase, renorm

KINDS = ("channels", "heads", "width")
_AGREES = 1e-6  # of the largest output; a wrong channel is off by far more


@dataclass(frozen=True)
class Pruning:
    """Options of the pass.

    keep: in (0, 1], the share that may stay of what `by` says: "params", "macs" (at batch 1), "bytes" (of all tensors),
    "channels" (of every layer) or "latency" (measured on a runtime: `packlight.prune` alone can). scope: "layer" (all
    layers lose the same share) or "global" (the least important of all, with scores normalised in each layer). score:
    see `packlight.passes.prune.scores`. normalise: "mean", "max", "sum" or "none". multiple: kept widths are multiples
    of it where a layer is wider. least: in [0, 1], the share of every layer that stays at least. kinds: what may be
    cut, of "channels", "heads" (of attention, or groups) and "width" (of every head); where heads and their width can
    be cut, heads are. exclude: layer-name patterns (shell wildcards) whose outputs keep all channels. layers: shares in
    (0, 1] of their width by layer-name pattern, whatever the rest loses for the budget; layers that are cut together
    have one, that of the last pattern that names any. threshold: >= 0; instead of a budget, channels whose normalised
    score is at most this go (0.5: half of the mean of their layer), and `keep`, `by` and `scope` are not looked at.
    seed: of the random score.
    """

    keep: float = 0.5
    by: str = "params"
    scope: str = "layer"
    score: str = "l2"
    normalise: str = "mean"
    multiple: int = 1
    least: float = 0.05
    kinds: str | Sequence[str] = KINDS
    exclude: str | Sequence[str] = ()
    seed: int = 0
    layers: Mapping[str, float] = field(default_factory=dict)
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise PacklightError(f"pruning needs keep in (0, 1], got {self.keep}: the share that may stay")
        for pattern, share in self.layers.items():
            if not 0 < share <= 1:
                raise PacklightError(f"pruning needs shares of layers in (0, 1], got {pattern}: {share}")
        if self.threshold is not None and not self.threshold >= 0:
            raise PacklightError(f"pruning needs a threshold >= 0, got {self.threshold}")
        if self.threshold is not None and self.by == "latency":
            raise PacklightError("pruning cuts by a threshold of scores or by latency, not by both")
        if self.multiple < 1 or not 0 <= self.least <= 1 or self.seed < 0:
            raise PacklightError(
                f"pruning needs multiple >= 1, least in [0, 1] and seed >= 0, got {self.multiple}, {self.least} and "
                f"{self.seed}"
            )
        for name, value, known in (
            ("by", self.by, BY), ("scope", self.scope, ("layer", "global")), ("score", self.score, NAMES),
            ("normalise", self.normalise, ("mean", "max", "sum", "none")),
        ):  # fmt: skip
            if value not in known:
                raise PacklightError(f"pruning's {name} is one of {', '.join(known)}, got {value!r}")
        object.__setattr__(self, "kinds", patterns_of(self.kinds))
        wrong = [k for k in self.kinds if k not in KINDS]
        if wrong or not self.kinds:
            raise PacklightError(f"pruning cuts {', '.join(KINDS)}, got {list(self.kinds)}")


def prunable(model: Model) -> Groups:
    """What can be cut of a Model, and what cannot and why. The Model is left as it is."""
    if model.is_quantized:
        raise PacklightError(f"{model.name} is quantized: prune the float network it was made of, then quantize that")
    return Groups(label(model.copy().eval()))


def prune(
    model: Model,
    options: Pruning = Pruning(),
    evidence: Evidence | None = None,
    calibration: Sequence[tuple[Tensor, ...]] = (),
    proof_inputs: Sequence[tuple[Tensor, ...]] = (),
) -> Model:
    """A copy of the Model with fewer channels, in eval mode. Every cut is proven: with the same channels masked, the
    network it was gives the same outputs, in eval and in train mode, on random inputs and on `proof_inputs` (of
    `unusual_sizes`).

    What a proof finds wrong is rolled back and said in the result's `notes`. evidence: for scores that need data.
    calibration: batches of inputs; with them, what stays takes over what went by least squares, and batch norms are
    estimated anew. Raises PacklightError where nothing can be cut.
    """
    if options.by == "latency":
        raise PacklightError("the pass cannot measure latency; packlight.prune can, or prune by params, macs or bytes")
    notes_before, model = model.notes, rebase(model, calibration) if calibration else model
    groups, families = families_of(model, options)
    scores = class_scores(groups, options.score, evidence, options.seed)
    return carried_out(
        groups, families, chosen(groups, families, scores, options), options, calibration, proof_inputs, notes_before
    )


def families_of(model: Model, options: Pruning) -> tuple[Groups, list[Family]]:
    """What options cut of a Model. Raises PacklightError where that is nothing."""
    groups = prunable(model)
    families = chosen_families(groups, options.kinds, patterns_of(options.exclude))
    if not families:
        reasons = "; ".join(f"{layer}: {why}" for layer, why in list(groups.frozen.items())[:3])
        if groups.families:
            kinds = ", ".join(options.kinds)
            reasons = f"its {len(groups.families)} families are excluded or of other kinds than {kinds}"
        raise PacklightError(f"nothing in {model.name} can be pruned ({reasons or 'no layer has channels to lose'})")
    return groups, families


def chosen(groups: Groups, families: Sequence[Family], scores: Values, options: Pruning) -> Flags:
    """[classes]: what goes, by scores of classes."""
    units = ranked(groups, families, scores, options.normalise, options.layers)
    return choose(
        groups, units, options.keep, options.by, options.scope, options.multiple, options.least, options.threshold
    )


def carried_out(
    groups: Groups, families: Sequence[Family], gone: Flags, options: Pruning,
    calibration: Sequence[tuple[Tensor, ...]] = (), proof_inputs: Sequence[tuple[Tensor, ...]] = (),
    notes_before: Sequence[str] = (),
) -> Model:  # fmt: skip
    """The proven cut of the Model that the groups are of."""
    gone, made, notes = proven(groups, families, gone, proof_inputs)
    if calibration:
        whole = groups.labelled.on(compensated(groups, gone, calibration))
        compensated_too, wrong = attempt(whole, groups.alive(gone))
        if compensated_too is None:
            raise PacklightError(f"{whole.model.name}: {wrong}")
        made = renorm(compensated_too, calibration)
    made.notes = (*notes_before, *notes, *_over_budget(groups, gone, options))
    told = options_of(replace(options, exclude=patterns_of(options.exclude)))
    return made.with_step(Step("prune", options=told | {"compensated": bool(calibration)}))


def _over_budget(groups: Groups, gone: Flags, options: Pruning) -> list[str]:
    """What to say where more stays than was asked for."""
    left = share_left(groups, options.by, gone)
    if options.threshold is not None or left is None or left <= options.keep:
        return []
    held = " and those in `layers` their shares" if options.layers else ""
    return [
        f"{left:.1%} of the {options.by} stay, {options.keep:.1%} were asked for: no more can go where every layer "
        f"keeps {options.least:.0%} of its width{held}, in multiples of {options.multiple}"
    ]


def proven(
    groups: Groups, families: Sequence[Family], gone: Flags, inputs: Sequence[tuple[Tensor, ...]] = ()
) -> tuple[Flags, Model, list[str]]:
    """What goes, the network without it, and notes. Where the proof fails, families are cut one after the other and
    those that fail are left whole. Raises PacklightError where none is left."""
    whole = groups.labelled
    made, wrong = attempt(whole, groups.alive(gone), inputs)
    if made is not None:
        return gone, made, []
    kept = np.zeros(groups.count, bool)
    notes = []
    for family in families:
        dead = [a for a in family.rows.ravel().tolist() if gone[groups.unit([a])].all()]
        wider = groups.closure(groups.unit(dead), kept)
        if (wrong := groups.whole(wider)) is None:
            further, wrong = attempt(whole, groups.alive(wider), inputs)
            if further is not None:
                kept, made = wider, further
                continue
        notes.append(f"{family.name} was not pruned: {wrong}")
    if made is None:
        raise PacklightError(f"nothing in {whole.model.name} can be pruned ({notes[0]})")
    return kept, made, notes


def attempt(
    whole: Labelled, alive: Array, inputs: Sequence[tuple[Tensor, ...]] = ()
) -> tuple[Model | None, str | None]:
    """The cut network where it is the masked one; else None and what is wrong."""
    model = whole.model
    try:
        small = cut_of(whole, alive)
        for given in (model.example_inputs(**unusual_sizes(model)), *inputs):
            for training in (False, True):
                off = disagreement(whole, alive, small, given, training)
                if not off <= _AGREES:
                    return None, f"its proof failed: outputs differ by {off:.1e} of the largest"
    except (PacklightError, RuntimeError, IndexError, TypeError, ValueError) as error:
        return None, f"its proof failed: {str(error).strip().splitlines()[0]}"
    return small, None


def cut_of(whole: Labelled, alive: Array) -> Model:
    """A cut copy of a labelled Model."""
    with torch.no_grad():
        return cut(whole.on(whole.model.copy()), alive)

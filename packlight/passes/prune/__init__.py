"""Structured pruning: labels, families of units, scores, cuts and their proof."""

from packlight.passes.prune.groups import Family, Groups
from packlight.passes.prune.prune import Pruning, prunable, prune
from packlight.passes.prune.scores import Evidence

__all__ = ["Evidence", "Family", "Groups", "Pruning", "prunable", "prune"]

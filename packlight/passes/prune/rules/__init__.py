"""What each family of operators does to labels."""

from packlight.passes.prune.rules import (  # noqa: F401
    contraction,
    elementwise,
    images,
    parts,
    recurrent,
    reduce,
    shapes,
    spectra,
)
from packlight.passes.prune.rules.table import RULES, Walk

__all__ = ["RULES", "Walk"]

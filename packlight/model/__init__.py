"""The Model, its operator table, its statistics and its file."""

from packlight.model.lineage import Step
from packlight.model.model import Model, fingerprint, matching, patterns_of
from packlight.model.pictures import pictures_of
from packlight.model.spec import TensorSpec
from packlight.model.statistics import LayerStatistics, Statistics, statistics

__all__ = [
    "LayerStatistics",
    "Model",
    "Statistics",
    "Step",
    "TensorSpec",
    "fingerprint",
    "matching",
    "patterns_of",
    "pictures_of",
    "statistics",
]

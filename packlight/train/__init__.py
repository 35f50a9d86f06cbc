"""The one training loop, its hooks and its losses."""

from packlight.train.distill import Distill, Feature
from packlight.train.hooks import Hook, Hooks, Run, Seen
from packlight.train.loop import Progress, fit
from packlight.train.losses import Distillation
from packlight.train.options import Engine, Fit, Schedule

__all__ = [
    "Distill",
    "Distillation",
    "Engine",
    "Feature",
    "Fit",
    "Hook",
    "Hooks",
    "Progress",
    "Run",
    "Schedule",
    "Seen",
    "fit",
]

"""The one training loop and its losses."""

from packlight.train.loop import Fit, Progress, fit
from packlight.train.losses import Distillation

__all__ = ["Distillation", "Fit", "Progress", "fit"]

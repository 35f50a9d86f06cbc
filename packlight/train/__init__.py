"""The one training loop, its hooks and its losses."""

from packlight.train.distill import Distill, Feature
from packlight.train.head import head_of, replace_head
from packlight.train.hooks import Hook, Hooks, Run, Seen
from packlight.train.loop import Progress, fit
from packlight.train.losses import Distillation
from packlight.train.options import Engine, Fit, Schedule
from packlight.train.recipe import Recipe, read_recipe
from packlight.train.regularise import L1, L2, Entropy, GroupLasso, Penalty, ResetDropout
from packlight.train.scales import LearnScales
from packlight.train.sparsify import Sparsify, Sparsity
from packlight.train.transfer import Transfer, adapt, extract, finetune_all, unfreeze
from packlight.train.unfreezing import Unfreezing, layer_groups

__all__ = [
    "L1",
    "L2",
    "Distill",
    "Distillation",
    "Engine",
    "Entropy",
    "Feature",
    "Fit",
    "GroupLasso",
    "Hook",
    "Hooks",
    "LearnScales",
    "Penalty",
    "Progress",
    "Recipe",
    "ResetDropout",
    "Run",
    "Schedule",
    "Seen",
    "Sparsify",
    "Sparsity",
    "Transfer",
    "Unfreezing",
    "adapt",
    "extract",
    "finetune_all",
    "fit",
    "head_of",
    "layer_groups",
    "read_recipe",
    "replace_head",
    "unfreeze",
]

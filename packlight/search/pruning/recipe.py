"""Pruning with its training as a YAML file, by the names of the option classes.

pruning: {keep: 0.5, by: macs, kinds: [channels], exclude: [head*]}
steps: 3  # or, in one run, gradual: {end: 0.6, times: 20}
samples: 512
compensate: true
teacher: true
finetune: {fit: {epochs: 5, learning_rate: 0.02}, distillation: {temperature: 4}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.passes.prune import Pruning
from packlight.search.pruning.gradual import Gradual
from packlight.train import Recipe
from packlight.train.options import check_types, from_mapping
from packlight.train.recipe import name_patterns, read_yaml, recipe


@dataclass(frozen=True)
class PruneRecipe:
    """pruning: what is cut. steps: >= 1, cuts with training after each. samples: of calibration data. compensate: None:
    where there is data. finetune: the training, with its distillation; None: no training. teacher: whether it follows
    the network as it was. draws, blocks, gradual: as `packlight.prune` takes them."""

    pruning: Pruning = Pruning()
    steps: int = 1
    samples: int = 512
    compensate: bool | None = None
    finetune: Recipe | None = None
    teacher: bool = True
    draws: int = 1
    blocks: int = 0
    gradual: Gradual | None = None

    def run(self) -> dict[str, Any]:
        """What `prune_with` takes by keyword."""
        how = self.finetune
        return {
            "steps": self.steps, "samples": self.samples, "compensate": self.compensate,
            "draws": self.draws, "blocks": self.blocks, "gradual": self.gradual,
            "options_fit": None if how is None else how.fit,
            "distillation": how.distillation if how is not None and self.teacher else None,
        }  # fmt: skip


def read_prune_recipe(path: str | Path) -> PruneRecipe:
    """The recipe in a YAML file. Raises PacklightError that names what is not understood."""
    return prune_recipe(read_yaml(path) or {}, str(path))


def prune_recipe(given: Any, where: str = "recipe") -> PruneRecipe:
    """The recipe that plain values describe."""
    known = [f.name for f in fields(PruneRecipe)]
    if not isinstance(given, Mapping) or set(given) - set(known):
        odd = sorted(map(str, set(given) - set(known))) if isinstance(given, Mapping) else type(given).__name__
        raise PacklightError(f"{where}: a recipe of pruning holds {', '.join(known)}, got {odd}")
    plain = {
        name: given[name] for name in ("steps", "samples", "compensate", "teacher", "draws", "blocks") if name in given
    }
    check_types(PruneRecipe, plain, where)
    if given.get("gradual"):
        told = {} if given["gradual"] is True else given["gradual"]
        if not isinstance(told, Mapping):
            raise PacklightError(f"{where}: gradual is true or a mapping of begin, end, times, got {told!r}")
        plain["gradual"] = from_mapping(Gradual, told, f"{where}: gradual")
    training = None
    if given.get("finetune") is not None:
        training = recipe(given["finetune"], f"{where}: finetune")
        if training.hooks:
            raise PacklightError(f"{where}: finetune: pruning is compared with its control alone; leave hooks out")
    return PruneRecipe(_pruning(given.get("pruning") or {}, f"{where}: pruning"), **plain, finetune=training)


def _pruning(given: Any, where: str) -> Pruning:
    if not isinstance(given, Mapping):
        raise PacklightError(f"{where} holds named options, got {given!r}")
    values = dict(given)
    if values.get("exclude") is not None:
        values["exclude"] = name_patterns(values["exclude"], where)
    if isinstance(values.get("kinds"), str | list):
        values["kinds"] = (values["kinds"],) if isinstance(values["kinds"], str) else tuple(values["kinds"])
    made: Pruning = from_mapping(Pruning, values, where)
    return made

"""What the storage-only peers share: a network as named float32 arrays, and choosing by validation accuracy."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from serving import THREADS, Array, Inputs, Job, Run, correct, rows

if TYPE_CHECKING:
    from torch import nn

    from packlight import Model

_TRIED = "tried [setting, bytes, drop]"
_GLANCE, _HOPELESS = 500, 3.0  # samples, points


def network(job: Job) -> Model:
    """The trained network as packlight's Model, batch norms as trained."""
    import torch

    import packlight

    torch.set_num_threads(THREADS)
    return packlight.load(job.folder / "network.plm")


def module(job: Job) -> nn.Module:
    """The trained network as the module that its factory makes, in eval mode."""
    where, _, factory = job.spec["factory"].partition(":")
    made = getattr(importlib.import_module(where), factory)(**job.spec["factory_options"])
    tensors = network(job).named_tensors()
    made.load_state_dict({name: tensors.get(name, value) for name, value in made.state_dict().items()})
    return made.eval()


def arrays(model: Model) -> dict[str, Array]:
    """Every float tensor of a Model by name."""
    found = {name: tensor.detach().float().numpy() for name, tensor in model.named_tensors().items()}
    return {name: array for name, array in found.items() if array.dtype == np.float32}


def running(model: Model, values: Mapping[str, Array]) -> Run:
    """A copy of a Model with these values in its tensors, in PyTorch."""
    import torch

    model = model.copy()
    with torch.no_grad():
        for name, tensor in model.named_tensors().items():
            if name in values:
                tensor.copy_(torch.from_numpy(np.array(values[name])).reshape(tensor.shape))

    def run(inputs: Inputs) -> Array:
        with torch.inference_mode():
            return model.flat(*map(torch.from_numpy, inputs))[0].numpy()

    return run


class Validation:
    """Drops of accuracy on the validation samples against the job's reference, in points. allowed: of a form."""

    def __init__(self, job: Job, model: Model):
        import packlight

        self.model, self.allowed = model, float(job.spec["allowed_drop"])
        self.x, self.y = job.data("validation")
        reference = job.folder / "reference.plm"
        reference_model = packlight.load(reference) if reference.is_file() else model
        before = running(reference_model, {})
        self.before = correct(before, self.x, self.y)
        self._glanced = correct(before, rows(self.x, slice(_GLANCE)), self.y[:_GLANCE])

    def accuracy(self, values: Mapping[str, Array], samples: int | None = None) -> float:
        """Percent, of all validation samples or the first so many."""
        return correct(running(self.model, values), rows(self.x, slice(samples)), self.y[:samples])

    def drop(self, values: Mapping[str, Array]) -> float:
        """Points; infinite where the first samples already show that it is far above what is allowed."""
        if self._glanced - self.accuracy(values, _GLANCE) > _HOPELESS:
            return math.inf
        return self.before - self.accuracy(values)


def smallest_allowed(
    sweeps: Iterable[Iterable[Any]],
    make: Callable[[Any], tuple[bytes, Mapping[str, Array]]],
    validation: Validation,
    known: tuple[bytes, dict[str, Any]] | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """The smallest file whose drop is allowed, and what was tried.

    sweeps: each yields settings from coarse to fine, and ends at the first that is allowed or larger than the best.
    known: an earlier call's answer to improve on.
    """
    best, options = known or (None, {_TRIED: []})
    for sweep in sweeps:
        for setting in sweep:
            file, values = make(setting)
            if best is not None and len(file) >= len(best):
                break
            drop = validation.drop(values)
            options[_TRIED].append([setting, len(file), round(drop, 3) if math.isfinite(drop) else None])
            if drop <= validation.allowed:
                best, options = file, {"chosen": setting, "validation_drop": round(drop, 3), _TRIED: options[_TRIED]}
                break
    if best is None:
        raise ValueError(f"no setting loses at most {validation.allowed:g} points of validation accuracy")
    return best, options

"""Run a tiny float and a tiny int8 network on every runtime and say what is wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from packlight import targets
from packlight.errors import MissingRuntime, PacklightError

_VERSIONS_LIMIT_S = 60.0


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, and what was seen or what to do."""

    subject: str
    ok: bool
    text: str


def inventory() -> list[dict[str, Any]]:
    """Every target known here: name, state ("installed", or what to run), forms, versions of what it needs."""
    known = []
    for name in targets.names():
        entry: dict[str, Any] = {"target": name, "state": "installed", "forms": [], "versions": {}}
        try:
            target = targets.get(name)
            entry["forms"] = [*target.forms, *(["int8"] if target.numerics.groups else [])]
            target.require()
            if target.elsewhere:
                entry["state"] = f"exports here; runs on {target.elsewhere}"
            entry["versions"] = _versions(target)
        except MissingRuntime:
            entry["state"] = f"missing: {target.install}"
        except PacklightError as error:
            entry["state"] = f"broken: {error}"
        known.append(entry)
    return known


def diagnose(names: Sequence[str] = (), on_stage: Callable[[str], None] = lambda text: None) -> list[Finding]:
    """Check this machine and the targets of these names, all where none is given; a runtime that is not installed is
    no fault. Raises PacklightError for a name that no target has."""
    for name in names:
        targets.get(name)
    from packlight.measure.machine import describe, has_vnni

    machine = describe()
    told = ", ".join(machine["instructions"]) or "no low-precision instructions"
    found = [Finding("processor", True, f"{machine['processor']}, {machine['cores']} cores, {told}")]
    if has_vnni() is False:
        warning = "no VNNI: int8 may be slower than float, and uint8 × int8 may saturate"
        found.append(Finding("processor", True, warning))
    for name in names or targets.names():
        try:
            target = targets.get(name)
            target.require()
        except MissingRuntime as missing:
            found.append(Finding(name, True, f"not installed ({missing})"))
        except PacklightError as error:
            found.append(Finding(name, False, str(error)))
        else:
            on_stage(f"trying {name}")
            found += [_try(target, quantized) for quantized in ((False, True) if target.numerics.groups else (False,))]
    return found


def _versions(target: targets.Target) -> dict[str, str]:
    """Of what a target converts and runs with; asked there, where it has an environment of its own."""
    if target.environment is None:
        return target.versions()
    with targets.Child(target) as child:
        found, _ = child.call("versions", time_limit=_VERSIONS_LIMIT_S)
    return found


def _try(target: targets.Target, quantized: bool) -> Finding:
    from packlight.api.compressing import quantize
    from packlight.api.delivering import export
    from packlight.measure.parity import check
    from packlight.task import Task

    subject = f"{target.name} {'int8' if quantized else 'float'}"
    images = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    try:
        model = _tiny()
        if quantized:
            model = quantize(model, Task("doctor", calibration=images), target=target)
        with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
            artifact = export(model, Path(folder) / f"tiny{target.suffix}", target=target)
            if target.elsewhere:
                return Finding(subject, True, f"exported, {artifact.bytes:,} bytes; runs on {target.elsewhere}")
            parity = check(model, artifact, (images,))
    except PacklightError as error:
        return Finding(subject, False, str(error))
    if not parity.ok:
        return Finding(subject, False, parity.reason)
    return Finding(subject, True, f"exported, ran, error {parity.error:.1e} of the output")


def _tiny() -> Any:
    import torch
    from torch import nn

    from packlight.api.opening import load

    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return load(nn.Sequential(*layers), torch.zeros(2, 3, 16, 16), name="tiny")

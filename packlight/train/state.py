"""A run's checkpoint: everything that its next step depends on, in one file of plain values and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.files import replace_file


def write(path: Path, state: dict[str, Any]) -> None:
    """Atomic: a kill leaves the old file or the new one."""
    replace_file(path, lambda temporary: torch.save(state, temporary))


def read(path: Path | None, identity: str) -> dict[str, Any] | None:
    """The state, on the CPU; None where there is no file; one of another run is an error."""
    if path is None or not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = state["identity"]
    except Exception as error:  # a damaged file fails in many ways; weights_only runs no code from it
        raise PacklightError(f"checkpoint {path} is damaged: {error}; delete it to start anew") from error
    if known != identity:
        raise PacklightError(f"checkpoint {path} is of another model, data or options; delete it or name another")
    return state

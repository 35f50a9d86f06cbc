"""Take a .plm file apart and put a forged one together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from packlight.errors import PacklightError
from packlight.model import Model

PROOF = "executed_by_packlight_tests"
CODE = f"__import__('os').system('touch {PROOF}')"


def parts(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()["packlight"]), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118


def forged(document: Any, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, "forged.plm", {"packlight": document if isinstance(document, str) else json.dumps(document)})
    return Path("forged.plm")


def refused(path: Path, reason: str) -> None:
    with pytest.raises(PacklightError, match=reason) as error:
        Model.load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)

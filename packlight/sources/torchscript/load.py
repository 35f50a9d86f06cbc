"""TorchScript archives (`.pt`, `.ts`, `.torchscript`) → Model."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.model.model import Model
from packlight.sources.apart import read_apart
from packlight.sources.example import DynamicDims

_MOST_PACKED = 16  # torch deflates the code in an archive, hardly ever that well


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with TorchScript code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(n.split("/")[1:2] == ["code"] for n in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def from_torchscript(path: Path, example: Any, *, dynamic: DynamicDims | None = None, name: str | None = None) -> Model:
    """A Model of a TorchScript archive for these example inputs, which say what sizes it takes.

    torch reads the archive in a child process, which follows its graph with operators of packlight's table. Branches
    and loops are taken as the example's sizes have it. Raises PacklightError where that is not possible, ChildFailure
    where the child crashed or took more than five minutes.
    """
    if example is None:
        raise PacklightError(f"{path} is TorchScript, which does not say what sizes it takes; give example inputs: "
                             "load(path, torch.zeros(1, 3, 224, 224)), or --input 1x3x224x224")  # fmt: skip
    with zipfile.ZipFile(path) as archive:
        if sum(m.file_size for m in archive.infolist()) > _MOST_PACKED * path.stat().st_size:
            raise PacklightError(f"{path} declares more than the bytes that it holds")
    title = name or path.stem
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        place = Path(folder)
        call = {"path": str(path.resolve()), "name": title, "dynamic": dynamic}
        (place / "call.json").write_text(json.dumps(call))
        torch.save(example, place / "example.pt")
        read_apart(path, "packlight.sources.torchscript.child", place)
        return Model.load(place / "made.plm")

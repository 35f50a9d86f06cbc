"""Networks of other frameworks → Model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packlight.model import Model
from packlight.sources.torch_module import from_module

__all__ = ["from_module", "from_onnx", "from_pt2"]


def from_pt2(path: Path, *, trust: bool = False, **options: Any) -> Model:
    """A Model of a `.pt2` archive: see packlight.sources.pt2.load; where it is trusted, packlight.sources.pt2.trusted,
    which runs what the file holds."""
    if trust:
        from packlight.sources.pt2.trusted import from_trusted

        return from_trusted(path, **options)
    from packlight.sources.pt2.load import from_pt2 as read

    return read(path, **options)


def from_onnx(*arguments: Any, **options: Any) -> Model:
    """A Model of an ONNX file: see packlight.sources.onnx.load.from_onnx, whose tables are imported when first used."""
    from packlight.sources.onnx.load import from_onnx as read

    return read(*arguments, **options)

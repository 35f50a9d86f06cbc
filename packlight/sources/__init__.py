"""Networks of other frameworks → Model."""

from __future__ import annotations

from typing import Any

from packlight.model import Model
from packlight.sources.torch_module import from_module

__all__ = ["from_module", "from_onnx"]


def from_onnx(*arguments: Any, **options: Any) -> Model:
    """A Model of an ONNX file: see packlight.sources.onnx.load.from_onnx, whose tables are imported when first used."""
    from packlight.sources.onnx.load import from_onnx as read

    return read(*arguments, **options)

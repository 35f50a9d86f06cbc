"""ONNX files → Model."""

from packlight.sources.onnx.load import from_onnx
from packlight.sources.onnx.op import Op

__all__ = ["Op", "from_onnx"]

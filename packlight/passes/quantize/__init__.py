"""Post-training quantization: placement, ranges, calibration, and the pass itself."""

from packlight.passes.quantize.quantize import Quantization, quantize

__all__ = ["Quantization", "quantize"]

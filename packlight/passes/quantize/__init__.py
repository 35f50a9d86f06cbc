"""Post-training quantization: placement, ranges, calibration, smoothing, rounding, bits, and the pass itself."""

from packlight.passes.quantize.quantize import Quantization, quantize
from packlight.passes.quantize.rounding import Rounding
from packlight.passes.quantize.smooth import Smoothing, smooth

__all__ = ["Quantization", "Rounding", "Smoothing", "quantize", "smooth"]

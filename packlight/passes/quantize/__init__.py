"""Post-training quantization: placement, ranges, calibration, smoothing, rounding, bits, and a look at what it did."""

from packlight.passes.quantize.bits import Bits
from packlight.passes.quantize.compare import LayerError, layer_errors
from packlight.passes.quantize.groups import Scales
from packlight.passes.quantize.quantize import Quantization, quantize
from packlight.passes.quantize.rounding import Rounding
from packlight.passes.quantize.smooth import Smoothing, smooth

__all__ = [
    "Bits", "LayerError", "Quantization", "Rounding", "Scales", "Smoothing", "layer_errors", "quantize", "smooth",
]  # fmt: skip

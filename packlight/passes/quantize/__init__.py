"""Post-training quantization: placement, ranges, calibration, smoothing, rounding, bits, and a look at what it did."""

from packlight.passes.quantize.bits import Bits
from packlight.passes.quantize.compare import LayerError, layer_errors
from packlight.passes.quantize.mend import Mended, mend
from packlight.passes.quantize.quantize import Quantization, quantize
from packlight.passes.quantize.rounding import Rounding
from packlight.passes.quantize.smooth import Smoothing, smooth

__all__ = [
    "Bits", "LayerError", "Mended", "Quantization", "Rounding", "Smoothing", "layer_errors", "mend", "quantize",
    "smooth",
]  # fmt: skip

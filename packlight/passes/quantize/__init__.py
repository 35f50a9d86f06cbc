"""Post-training quantization: placement, ranges, calibration, smoothing, rounding, bits, corrections, a look at it."""

from packlight.passes.quantize.bits import Bits
from packlight.passes.quantize.compare import LayerError, layer_errors
from packlight.passes.quantize.equalize import equalize
from packlight.passes.quantize.floats import float_format, refuse_others, store_floats
from packlight.passes.quantize.groups import Scales
from packlight.passes.quantize.mend import Mended, mend
from packlight.passes.quantize.quantize import Quantization, quantize
from packlight.passes.quantize.rounding import Rounding
from packlight.passes.quantize.smooth import Smoothing, smooth

__all__ = [
    "Bits", "LayerError", "Mended", "Quantization", "Rounding", "Scales", "Smoothing", "equalize", "float_format",
    "layer_errors", "mend", "quantize", "refuse_others", "smooth", "store_floats",
]  # fmt: skip

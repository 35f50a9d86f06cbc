"""Rate–distortion quantization: the levels that cost the task least for the bits that they take."""

from packlight.passes.rate_distortion.curvature import Curvature, curvature
from packlight.passes.rate_distortion.quantize import RateDistortion

__all__ = ["Curvature", "RateDistortion", "curvature"]

"""Measurements on the real runtime, each with unit, n and interval."""

from packlight.measure.measurement import Measurement

__all__ = ["Measurement"]

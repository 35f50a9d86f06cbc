"""Measurements as values, as text and as JSON."""

import json

import pytest

from packlight.measure import Measurement
from packlight.measure.machine import cores, describe, has_vnni


@pytest.mark.parametrize(
    ("measurement", "text"),
    [
        (Measurement(0.52, "points", 425, -0.1, 1.14), "0.52 points [-0.1, 1.14]"),
        (Measurement.exact(316_530, "bytes"), "316,530 bytes"),
        (Measurement(1234567.0, "samples/s", 9, 1.2e6, 1.3e6), "1,234,567 samples/s [1,200,000, 1,300,000]"),
        (Measurement.exact(0.0031, ""), "0.0031"),
    ],
    ids=["with an interval", "exact", "large", "without a unit"],
)
def test_a_measurement_reads_well(measurement, text):
    assert str(measurement) == text


def test_what_is_not_finite_is_null_in_json():
    written = json.dumps(Measurement.exact(float("inf"), "relative").as_json(), allow_nan=False)
    assert json.loads(written) == {"value": None, "unit": "relative", "n": 1, "low": None, "high": None}


def test_the_machine_is_described():
    machine = describe()
    assert machine["cores"] == cores() >= 1
    assert machine["memory_bytes"] > 1e8
    assert machine["processor"]
    assert has_vnni() in (True, False, None)

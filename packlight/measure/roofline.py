"""How fast a network could be on a device at the very best: an estimate, not a measurement.

Of each layer the roofline model (Williams et al. 2009, CACM 52(4), section 2) takes the larger of two times: its
operations at the device's peak rate for their format, and the bytes of its weights and activations at the peak rate of
main memory. The sum over layers is a lower bound of latency under those peaks, where no cache spares traffic. Kernels
reach a part of the peaks, and a call costs more than its layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from packlight.measure.devices import Device
from packlight.model import Model, Statistics, statistics

_OPERATIONS = 2  # of a MAC
_WIDTH = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True)
class LayerEstimate:
    """seconds: >= 0. bound: "compute" or "memory", whichever takes longer. format: that it computes in."""

    layer: str
    seconds: float
    bound: str
    format: str


@dataclass(frozen=True)
class Estimate:
    """seconds: lower bound of one call's latency. weight_bytes, activation_bytes: what must fit into memory; fits:
    whether they do. layers: in graph order, those with anything to do."""

    device: Device
    batch: int
    seconds: float
    weight_bytes: int
    activation_bytes: int
    layers: tuple[LayerEstimate, ...]

    @property
    def fits(self) -> bool:
        """Whether weights and activations fit into the device's memory."""
        return self.weight_bytes + self.activation_bytes <= self.device.memory_bytes

    @property
    def memory_bound(self) -> float:
        """Share of the time in layers that wait for memory, in [0, 1]."""
        waiting = sum(r.seconds for r in self.layers if r.bound == "memory")
        return waiting / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Everything but the layers, as JSON values."""
        return {
            "estimate": True, "device": self.device.name, "title": self.device.title, "source": self.device.source,
            "peaks_measured": self.device.measured, "batch": self.batch, "least_latency_ms": 1e3 * self.seconds,
            "memory_bound": self.memory_bound, "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes, "fits": self.fits,
        }  # fmt: skip


def estimate(model: Model, on: Device, batch: int = 1, form: str = "float32") -> Estimate:
    """A lower bound of a Model's latency on a device. form: "float32", or "float16" where the device computes in it;
    quantized layers compute in int8 where the device does, else in `form`."""
    if form not in on.operations_per_s:
        form = "float32"
    counted = statistics(model, batch)
    layers = []
    for row in counted.layers:
        computed = "int8" if row.low_precision and "int8" in on.operations_per_s else form
        width = _WIDTH[computed]
        weights = row.weight_bytes if row.weight_bits else row.weight_bytes * _WIDTH[form] / _WIDTH["float32"]
        compute = _OPERATIONS * row.macs / on.operations_per_s[computed]
        memory = (weights + width * row.moved) / on.bytes_per_s
        if compute or memory:
            bound = "compute" if compute >= memory else "memory"
            layers.append(LayerEstimate(row.name, max(compute, memory), bound, computed))
    stored = counted.weight_bytes if form == "float32" else _halved(counted)
    return Estimate(on, batch, sum(r.seconds for r in layers), stored, counted.peak_activation_bytes, tuple(layers))


def _halved(counted: Statistics) -> int:
    return sum(r.weight_bytes if r.weight_bits else r.weight_bytes // 2 for r in counted.layers)

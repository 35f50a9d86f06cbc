"""Devices that are not at hand, as data files: what they could compute and move at the very most.

A profile is a YAML file of `packlight/data/devices`, or one of the user's own, with these keys. Its numbers are peaks
that follow from clock, width and data sheets, with the source beside them; nothing was measured on the device.

    title, processor, source   text
    cores                      of the processor that is meant
    operations_per_s           number format → operations a second on all cores; a multiplication with addition is two
    bytes_per_s                between the processor and its main memory
    memory_bytes               of the device
    formats                    number formats that it computes in
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError

_PROFILES = Path(__file__).parent.parent / "data" / "devices"
_MAX_BYTES = 1 << 16
_NUMBERS = ("cores", "bytes_per_s", "memory_bytes")
HERE = "here"


@dataclass(frozen=True)
class Device:
    """A device's peaks. operations_per_s: format ("float32", "float16", "int8") → operations/s, > 0. bytes_per_s,
    memory_bytes: > 0. measured: whether the peaks were measured, which is so of this machine only."""

    name: str
    title: str
    processor: str
    cores: int
    operations_per_s: Mapping[str, float]
    bytes_per_s: float
    memory_bytes: float
    formats: tuple[str, ...]
    source: str
    measured: bool = False


def device_names() -> list[str]:
    """The profiles that ship with packlight."""
    return sorted(p.stem for p in _PROFILES.glob("*.yaml"))


def device(name: str) -> Device:
    """A shipped profile by name, the user's own by its path, or "here": this machine's peaks, measured now."""
    if name == HERE:
        return this_machine()
    path = Path(name) if name.endswith((".yaml", ".yml")) else _PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join([HERE, *device_names()])
        raise PacklightError(
            f"no device {name!r}; known are {known}, or give a .yaml file (docs/targets.md has the keys)"
        )
    return _read(path)


def _read(path: Path) -> Device:
    import yaml

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        rates = {str(k): _positive(v, k) for k, v in found["operations_per_s"].items()}
        if "float32" not in rates:
            raise ValueError("operations_per_s has no float32")
        cores, bandwidth, memory = (_positive(found[k], k) for k in _NUMBERS)
        title, processor, source = (str(found[k]) for k in ("title", "processor", "source"))
        formats = tuple(map(str, found["formats"]))
        return Device(path.stem, title, processor, int(cores), rates, bandwidth, memory, formats, source)
    except KeyError as error:
        raise PacklightError(f"{path} is no device profile: it has no {error.args[0]!r}") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise PacklightError(f"{path} is no device profile: {' '.join(str(error).split())[:200]}") from error


def _positive(value: Any, key: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{key} is {value}, it must be above 0")
    return number


def this_machine() -> Device:
    """This machine's peaks on all processors that we may use: a large product of matrices, a large copy."""
    import torch

    from packlight.measure.machine import cores, describe

    facts = describe()
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    copied = torch.empty(1 << 25)
    source = torch.ones(1 << 25)
    multiply = _fastest(lambda: torch.mm(a, b))
    copy = _fastest(lambda: copied.copy_(source))
    return Device(
        HERE, "This machine", facts["processor"], cores(), {"float32": 2 * 1024**3 / multiply},
        2 * source.nbytes / copy, float(facts["memory_bytes"]), ("float32",),
        "measured now: a product of 1024 × 1024 matrices, a copy of 128 MiB, PyTorch", measured=True,
    )  # fmt: skip


def _fastest(call: Callable[[], object], seconds: float = 0.3) -> float:
    """Seconds of the fastest call: what disturbs only ever makes one slower."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best

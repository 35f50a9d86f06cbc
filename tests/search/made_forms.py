"""Made-up forms, for decisions that need no runtime."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from packlight.measure import Measurement
from packlight.search.result import Form

FLOAT_BYTES = 1_000_000


def form(
    name: str, *, drop: float = 0.0, half: float = 0.0, ratio: float = 1.0, noise: float = 0.0,
    size: int = FLOAT_BYTES, refused: str = "", split: str = "validation",
) -> Form:  # fmt: skip
    measured = {
        "quality": Measurement(90.0 - drop, "%", 1000, 88.0, 92.0),
        "drop_points": Measurement(drop, "points", 1000, drop - half, drop + half),
        "agreement": Measurement(99.0, "%", 1000, 98.0, 99.5),
        "latency_ms": Measurement(8.0 * ratio, "ms", 25, 7.9 * ratio, 8.1 * ratio),
        "latency_ratio": Measurement(ratio, "×", 25, ratio - noise, ratio + noise),
        "file_bytes": Measurement.exact(size, "bytes"),
        "file_ratio": Measurement.exact(FLOAT_BYTES / size, "×"),
        "peak_memory_bytes": Measurement.exact(5e7, "bytes"),
        "cold_start_ms": Measurement.exact(100.0, "ms"),
    }
    artifact: Any = SimpleNamespace(path=Path(f"{name}.onnx"), manifest={"versions": {"onnxruntime": "1"}})
    model: Any = SimpleNamespace(notes=(), files={})
    return Form(name, "load → export", model, artifact, measured, split, refused)


BASELINE = form("baseline")

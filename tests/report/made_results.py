"""Made-up results for the report's tests: the JSON of a search, of any size and any verdict."""

from __future__ import annotations

import random
from typing import Any

HOSTILE = "</script><script>window.hacked = 1</script><img src=https://x.example onerror='window.hacked = 1'>"


def number(value: float, unit: str, half: float = 0.0, n: int = 1) -> dict[str, Any]:
    return {"value": value, "unit": unit, "n": n, "low": value - half, "high": value + half}


def layer(name: str, macs: int = 1_806_336, bits: int = 8) -> dict[str, Any]:
    params = 9_248
    return {
        "layer": name, "operator": "conv2d", "output": [1, 32, 14, 14], "params": params, "macs": macs,
        "weight_bytes": params * bits // 8, "bits": bits,
    }  # fmt: skip


def form(
    name: str, *, quality: float = 91.2, drop: float = 0.03, latency: float = 0.85, ratio: float = 0.5,
    file_bytes: int = 316_530, baseline_bytes: int = 1_095_943, split: str = "test", n: int = 10_000,
    refused: str | None = None, layers: list[dict[str, Any]] | None = None, notes: list[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "name": name, "recipe": "load(from=net) → fold(layers=21) → export(form=float32)", "artifact": f"{name}.onnx",
        "split": split, "refused": refused, "notes": notes or [],
        "measurements": {
            "quality": number(quality, "%", 0.55, n),
            "drop_points": number(drop, "points", 0.08, n),
            "agreement": number(99.5, "%", 0.11, n),
            "file_bytes": number(file_bytes, "bytes"),
            "file_ratio": number(baseline_bytes / file_bytes, "×"),
            "latency_ms": number(latency, "ms", 0.03 * latency, 25),
            "latency_p95_ms": number(1.2 * latency, "ms", 0.1 * latency, 800),
            "latency_ratio": number(ratio, "×", 0.02 * ratio, 25),
            "cold_start_ms": number(60.0, "ms"),
            "peak_memory_bytes": number(30_261_248, "bytes"),
            "parity_error": number(0.0054, "relative"),
        },
        "layers": [layer("stem.0"), layer("head", 640)] if layers is None else layers,
    }  # fmt: skip


def baseline(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"drop": 0.0, "latency": 1.7, "ratio": 1.0, "file_bytes": 1_095_943, "quality": 91.23}
    made = form("baseline", **(given | changes))
    made["measurements"]["drop_points"] = number(0.0, "points", 0.037, 10_000)
    del made["measurements"]["parity_error"]
    return made


def result(best: dict[str, Any] | None = None, candidates: list[dict[str, Any]] | None = None, **changes: Any) -> Any:
    """A search in which an int8 form wins, unless told otherwise."""
    best = best or form("int8")
    return {
        "packlight": 1, "name": "ResNet20", "task": "fashion-mnist", "target": "onnxruntime",
        "budget": "drop<=1%, latency:min", "met": True, "proven": True, "reason": "all limits proven",
        "baseline": baseline(), "best": best, "candidates": [best] if candidates is None else candidates,
        "skipped": {"int8-minmax": "int8 keeps the budget already"},
        "throughput": {
            "baseline": {"1": number(588, "samples/s", 9, 9), "16": number(4_012, "samples/s", 80, 9)},
            best["name"]: {"1": number(1_176, "samples/s", 20, 9), "16": number(9_321, "samples/s", 200, 9)},
        },
        "workload": {"batch": 1, "threads": 1},
        "machine": {
            "processor": "Intel(R) Xeon(R) Processor", "architecture": "x86_64", "cores": 16,
            "instructions": ["avx2", "avx512_vnni"], "memory_bytes": 25_276_502_016, "system": "Linux 6.18",
            "python": "3.11.7",
        },
        "seconds": 100.7,
    } | changes  # fmt: skip


def many(count: int = 25, seed: int = 0) -> Any:
    """A search with `count` forms of all kinds beside the best: refused, far off, better than the baseline."""
    draw = random.Random(seed)
    forms = []
    for i in range(count):
        latency = draw.uniform(0.5, 2.2)
        refused = "slower than the float baseline: 1.12× [1.1, 1.14]" if latency > 1.9 else None
        forms.append(
            form(
                f"int8-{draw.choice(('mse', 'minmax', 'mixed', 'pruned'))}-keep{draw.randint(30, 95)}-{i}",
                drop=draw.gauss(0.6, 0.7), quality=90.6, latency=latency, ratio=latency / 1.7, refused=refused,
                file_bytes=draw.randint(90_000, 600_000), split="validation", n=5_000,
            )
        )  # fmt: skip
    forms[3]["measurements"]["drop_points"] = number(62.4, "points", 1.2, 5_000)
    forms[3]["refused"] = "the file does not compute what the Model computes (error 0.41, first at layer 'stem.0')"
    best = form("int8-mixed-keep49", drop=0.21, latency=0.47, ratio=0.276, file_bytes=402_000)
    forms.insert(7, best)
    return result(best, forms)

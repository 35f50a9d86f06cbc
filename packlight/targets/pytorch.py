"""PyTorch itself, eager: float32, and int8 in its reference form.

The file is a packlight Model (.plm), its weights as the integers that they are. PyTorch has no fused low-precision
kernels for it: quantize and dequantize run as operators of their own around float ones, so int8 here is simulated:
right, small on disk, and slower than float.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics

_LEAST_RUNS = 10


class PyTorch(Target):
    """PyTorch on the CPU, without a compiler."""

    name = "torch"
    install = "pip install packlight"
    suffix = ".plm"
    packages = ("torch",)
    forms = ("float32",)

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import FLOAT_FORMATS, Format, FusionGroup, Numerics

        clamps = ("relu", "relu6", "hardtanh")
        return Numerics(
            activation=Format(8, signed=False, symmetric=False),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(
                FusionGroup(("conv1d", "conv2d", "linear"), clamps, weighted=True, output=False),
                FusionGroup(("add",), ("relu",), output=False),
                FusionGroup(("mul", "cat", "concat", "avg_pool2d", "adaptive_avg_pool2d"), (), output=False),
            ),
            transparent=frozenset({
                "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose",
                "max_pool1d", "max_pool2d", "upsample_nearest2d", "dropout", "clone", "contiguous",
            }),
            dynamic=frozenset({"linear"}),
            stored=frozenset({"embedding", "lstm", "gru"}),
            blocked=frozenset({"linear"}),
            blocks=(16, 32, 64, 128, 256),
            floats=FLOAT_FORMATS,
            tables=True,
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str]:
        from packlight.model.integers import freeze

        freeze(model.copy().eval()).save(path)
        return ["int8 is simulated by PyTorch, and slower than float"] if model.is_quantized else []

    def open(self, path: Path, threads: int) -> Session:
        return _EagerSession(path, threads)

    def profile(self, path: Path, threads: int, inputs: Sequence[Any], seconds: float) -> dict[str, float]:
        return _EagerSession(path, threads).operator_times(inputs, seconds)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {"torch": version("torch")}


class _EagerSession(Session):
    def __init__(self, path: Path, threads: int):
        import torch

        from packlight.model import Model

        torch.set_num_threads(threads)
        self._model = Model.load(path).eval()

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        import torch

        with torch.inference_mode():
            return [t.numpy().copy() for t in self._model.flat(*(torch.tensor(x) for x in inputs))]

    def operator_times(self, inputs: Sequence[Any], seconds: float) -> dict[str, float]:
        """Median seconds of every operator by its layer's name, over runs that take `seconds` in all."""
        import torch
        from torch.fx import Interpreter, Node

        layer, taken = self._model.layer, dict[str, list[float]]()

        class Timed(Interpreter):
            def run_node(self, n: Node) -> Any:
                began = time.perf_counter()
                result = super().run_node(n)
                if n.op == "call_function":
                    taken.setdefault(layer(n), []).append(time.perf_counter() - began)
                return result

        deadline, runs = time.perf_counter() + seconds, 0
        with torch.inference_mode():
            while runs < _LEAST_RUNS or time.perf_counter() < deadline:
                Timed(self._model.graph_module).run(*(torch.tensor(x) for x in inputs))
                runs += 1
        return {name: median(times) for name, times in taken.items()}

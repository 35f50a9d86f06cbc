"""OpenVINO on the CPU: float32, float16-stored weights, and int8.

Its IR is made from the very ONNX graph that ONNX Runtime's files hold, so nothing is written twice: pairs of
QuantizeLinear and DequantizeLinear become FakeQuantize operators, which its low-precision transformations fuse into
int8 kernels when the file is opened.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from packlight.model import Model
    from packlight.model.numerics import Numerics

_SHAPES = 4  # that a session compiles for
_LEAST_RUNS = 10
# Left to itself it computes in bfloat16 where the processor has it, and quantizes activations at run time beside
# integer weights: other answers.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
_COUNTED = re.compile(r"_\d+\Z")


class OpenVino(Target):
    """Intel's OpenVINO, CPU plug-in."""

    name = "openvino"
    install = "pip install 'packlight[openvino]'"
    suffix = ".xml"
    packages = ("openvino", "onnx", "onnx_ir", "onnxscript")
    forms = ("float32", "float16")

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import FLOAT_FORMATS, Format, FusionGroup, Numerics

        clamps = ("relu", "relu6", "hardtanh")
        return Numerics(
            activation=Format(8, signed=False, symmetric=False),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(
                FusionGroup(("conv1d", "conv2d"), clamps, weighted=True, output=False),
                FusionGroup(("linear",), clamps, weighted=True, output=False),
                FusionGroup(("add",), ("relu",), output=False),
                FusionGroup(("cat", "concat"), (), output=False),
                FusionGroup(("avg_pool2d", "adaptive_avg_pool2d"), (), output=False),
            ),
            transparent=frozenset({
                "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose",
                "max_pool1d", "max_pool2d", "upsample_nearest2d", "dropout", "clone", "contiguous",
            }),
            channel_multiple=16,
            blocked=frozenset({"linear"}),
            blocks=(16, 32, 64, 128, 256),
            floats=FLOAT_FORMATS,
            tables=True,
            stored=frozenset({"embedding", "lstm", "gru"}),
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str] | None:
        import onnx_ir
        import openvino
        from openvino._offline_transformations import apply_moc_transformations

        from packlight.model.codebooks import lookups
        from packlight.model.integers import freeze
        from packlight.targets.onnx_codebooks import hold
        from packlight.targets.onnx_convert import convert
        from packlight.targets.onnx_floats import cast_floats, hold_floats
        from packlight.targets.onnx_graph import finish

        frozen = freeze(model.copy().eval())
        stored = hold_floats(frozen)
        graph = convert(hold(frozen))
        cast_floats(graph, stored)
        finish(graph, float16=form == "float16")  # save_model would clip what leaves float16's range
        with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
            file = Path(folder) / "network.onnx"
            onnx_ir.save(graph, file)
            try:
                converted = openvino.Core().read_model(file)  # convert_model would send usage data
            except RuntimeError as error:
                raise PacklightError(_refusal(model.name, graph, str(error))) from error
            if form == "float32" and not stored and not lookups(frozen):
                apply_moc_transformations(converted, cf=False)  # a smaller graph, but it widens what is stored narrow
            _name_anew(converted)
            openvino.save_model(converted, path, compress_to_fp16=False)
        return None

    def open(self, path: Path, threads: int) -> Session:
        return _OpenVinoSession(path, threads)

    def profile(self, path: Path, threads: int, inputs: Sequence[Any], seconds: float) -> dict[str, float]:
        return _OpenVinoSession(path, threads, profile=True).operator_times(inputs, seconds)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {p: version(p) for p in ("openvino", "onnx", "onnx-ir", "onnxscript", "torch")}


def _name_anew(model: Any) -> None:
    """Names that count what the process has made so far → names that count in this model, so that the same network
    becomes the same file."""
    model.set_friendly_name("network")
    for i, operator in enumerate(model.get_ordered_ops()):
        name = operator.get_friendly_name()
        if name == operator.get_name() or (operator.get_type_name() == "Constant" and _COUNTED.search(name)):
            operator.set_friendly_name(f"{operator.get_type_name()}_{i}")


def _refusal(name: str, graph: ir.Model, told: str) -> str:
    """What the runtime cannot read, with how many there are of each; its own first line where it names none."""
    counts = Counter(node.op_type for node in graph.graph)
    missing = sorted(op for op in counts if re.search(rf"\b{re.escape(op)}\b", told))
    if "No conversion rule" not in told or not missing:
        return f"OpenVINO cannot read {name}: {' '.join(told.split())[:300]}"
    listed = ", ".join(f"{op} ({counts[op]})" for op in missing)
    return f"OpenVINO has no operators for these of {name}: {listed}; use another target"


class _OpenVinoSession(Session):
    """Compiles for the shapes that it is given, which runs up to twice as fast as a model of any shape; where many
    come, for any."""

    def __init__(self, path: Path, threads: int, profile: bool = False):
        import openvino

        self._options = {
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "PERF_COUNT": profile,
            **_EXACT,
        }  # fmt: skip
        self._core = openvino.Core()
        self._model = self._core.read_model(path)
        self._dynamic = self._model.is_dynamic()
        self._requests: dict[tuple[tuple[int, ...], ...] | None, Any] = {}

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        found = self._request(tuple(x.shape for x in inputs)).infer(list(inputs), share_inputs=True)
        return [found[i].copy() for i in range(len(found))]

    def operator_times(self, inputs: Sequence[Any], seconds: float) -> dict[str, float]:
        """Median seconds of every operator, over runs that take `seconds` in all. What was fused into an operator is
        in its time."""
        deadline = time.perf_counter() + seconds
        runs: list[dict[str, float]] = []
        while len(runs) < _LEAST_RUNS or time.perf_counter() < deadline:
            self.run(inputs)
            taken: dict[str, float] = {}
            for row in self._request(tuple(x.shape for x in inputs)).profiling_info:
                if row.status != row.Status.EXECUTED:
                    continue
                name = row.node_name.partition("/WithoutBiases")[0]
                taken[name] = taken.get(name, 0.0) + row.real_time.total_seconds()
            runs.append(taken)
        kept = runs[_LEAST_RUNS // 2 :]
        return {name: median(run.get(name, 0.0) for run in kept) for name in kept[0]}

    def _request(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        key = shapes if self._dynamic and (shapes in self._requests or len(self._requests) < _SHAPES) else None
        if key not in self._requests:
            model = self._model
            if key is not None:
                model = model.clone()
                model.reshape({i: list(shape) for i, shape in enumerate(key)})
            self._requests[key] = self._core.compile_model(model, "CPU", self._options).create_infer_request()
        return self._requests[key]

"""OpenVINO on the CPU: float32, float16-stored weights, and int8.

Its IR is made from the very ONNX graph that ONNX Runtime's files hold, so nothing is written twice: pairs of
QuantizeLinear and DequantizeLinear become FakeQuantize operators, which its low-precision transformations fuse into
int8 kernels when the file is opened.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics

_COUNTED = re.compile(r"_\d+\Z")
_SHAPES = 4  # that a session compiles for


class OpenVino(Target):
    """Intel's OpenVINO, CPU plug-in."""

    name = "openvino"
    install = "pip install 'packlight[openvino]'"
    suffix = ".xml"
    packages = ("openvino", "onnx", "onnx_ir", "onnxscript")
    forms = ("float32", "float16")

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import Format, FusionGroup, Numerics

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
            stored=frozenset({"embedding"}),
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str] | None:
        import onnx_ir
        import openvino

        from packlight.model.integers import freeze
        from packlight.targets.onnx_convert import convert
        from packlight.targets.onnx_graph import finish

        graph = convert(freeze(model.copy().eval()))
        finish(graph, float16=False)
        with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
            file = Path(folder) / "network.onnx"
            onnx_ir.save(graph, file)
            converted = openvino.convert_model(file)
            _name_anew(converted)
            openvino.save_model(converted, path, compress_to_fp16=form == "float16")
        return None

    def open(self, path: Path, threads: int) -> Session:
        return _OpenVinoSession(path, threads)

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


class _OpenVinoSession(Session):
    """Compiles for the shapes that it is given, which runs up to twice as fast as a model of any shape; where many
    come, for any."""

    def __init__(self, path: Path, threads: int):
        import openvino

        self._options = {
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 where the processor has it, else: other answers
        }  # fmt: skip
        self._core = openvino.Core()
        self._model = self._core.read_model(path)
        self._dynamic = self._model.is_dynamic()
        self._requests: dict[tuple[tuple[int, ...], ...] | None, Any] = {}

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        found = self._request(tuple(x.shape for x in inputs)).infer(list(inputs), share_inputs=True)
        return [found[i].copy() for i in range(len(found))]

    def _request(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        key = shapes if self._dynamic and (shapes in self._requests or len(self._requests) < _SHAPES) else None
        if key not in self._requests:
            model = self._model
            if key is not None:
                model = model.clone()
                model.reshape({i: list(shape) for i, shape in enumerate(key)})
            self._requests[key] = self._core.compile_model(model, "CPU", self._options).create_infer_request()
        return self._requests[key]

"""ONNX Runtime on the CPU: float32, float16-stored weights, and int8 as QDQ graphs.

uint8 activations with int8 weights are what its kernels run fastest on a CPU with VNNI; a convolution and
a residual addition write uint8 only, so their results are quantized too, and without that the additions
would run in float between conversions and cost more than they save.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics

_MAX_BYTES = (1 << 31) - (1 << 24)


class OnnxRuntime(Target):
    """Microsoft's ONNX Runtime, CPU execution provider."""

    name = "onnxruntime"
    install = "pip install 'packlight[onnxruntime]'"
    suffix = ".onnx"
    packages = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")
    forms = ("float32", "float16")

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import FLOAT_FORMATS, Format, FusionGroup, Numerics

        return Numerics(
            activation=Format(8, signed=False, symmetric=False),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(
                FusionGroup(("conv1d", "conv2d"), ("relu", "relu6", "hardtanh"), weighted=True),
                FusionGroup(("linear",), ("relu", "relu6", "hardtanh"), weighted=True, output=False),
                FusionGroup(("add",), ("relu",)),
                FusionGroup(("mul",), ()),
                FusionGroup(("cat", "concat"), ()),
                FusionGroup(("avg_pool2d", "adaptive_avg_pool2d"), ()),
            ),
            transparent=frozenset({
                "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose",
                "max_pool1d", "max_pool2d", "upsample_nearest2d", "dropout", "clone", "contiguous",
            }),
            channel_multiple=16,
            dynamic=frozenset({"linear"}),
            stored=frozenset({"embedding", "lstm", "gru"}),
            blocked=frozenset({"linear"}),
            blocks=(16, 32, 64, 128, 256),
            floats=FLOAT_FORMATS,
            tables=True,
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> None:
        import onnx_ir

        from packlight.model.integers import freeze
        from packlight.targets.onnx_codebooks import hold
        from packlight.targets.onnx_convert import convert
        from packlight.targets.onnx_floats import cast_floats, hold_floats
        from packlight.targets.onnx_graph import finish

        frozen = freeze(model.copy().eval())
        tensors = frozen.named_tensors().values()
        halved = form == "float16"
        _check_size(model.name, sum(t.nbytes // 2 if halved and t.is_floating_point() else t.nbytes for t in tensors))
        stored = hold_floats(frozen)
        graph = convert(hold(frozen))
        cast_floats(graph, stored)
        finish(graph, float16=halved, integer_clamps=True)
        constants = (v.const_value for v in graph.graph.initializers.values())
        _check_size(model.name, sum(c.nbytes for c in constants if c is not None))
        onnx_ir.save(graph, path)

    def open(self, path: Path, threads: int) -> Session:
        return _OrtSession(path, threads)

    def profile(self, path: Path, threads: int, inputs: Sequence[Any], seconds: float) -> dict[str, float]:
        from packlight.targets.onnx_profile import operator_times

        with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
            session = _OrtSession(path, threads, profile=Path(folder) / "profile")
            return operator_times(session.run, session.end_profiling, inputs, seconds)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {p: version(p) for p in ("onnxruntime", "onnx", "onnx-ir", "onnxscript", "torch")}


def _check_size(name: str, size: int) -> None:
    if size > _MAX_BYTES:
        raise PacklightError(f"{name} takes {size / 1e9:.1f} GB as ONNX, one file holds {_MAX_BYTES / 1e9:.1f} GB")


class _OrtSession(Session):
    def __init__(self, path: Path, threads: int, profile: Path | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [i.name for i in self._session.get_inputs()]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        outputs: list[Any] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs

    def end_profiling(self) -> Path:
        """The file that the profile was written to."""
        return Path(self._session.end_profiling())

"""Alibaba's MNN on the CPU: float32, float16-stored weights, and int8.

Its files are made from the very ONNX graph that ONNX Runtime's files hold. `mnnconvert`, the program, installs packages
and sends usage data when it runs; the converter that it calls does neither, and is called here by itself, in a process
that has no network where the system can take it away (Linux with user namespaces).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics
    from packlight.targets.mnn_scales import Scales

_LIMIT_S = 300.0
_WORST_FLOAT16 = 0.1
# New user and network namespaces before anything native is loaded: no address can be reached from there.
_CONVERT = """
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)
import _tools
sys.exit(not _tools.mnnconvert(["mnnconvert", *sys.argv[1:]]))
"""


class Mnn(Target):
    """Alibaba's MNN, CPU."""

    name = "mnn"
    install = "pip install 'packlight[mnn]'"
    suffix = ".mnn"
    packages = ("MNN", "_tools", "onnx", "onnx_ir", "onnxscript")
    forms = ("float32", "float16")

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import Format, FusionGroup, Numerics

        clamps = ("relu", "relu6", "hardtanh")
        return Numerics(
            activation=Format(8, signed=True, symmetric=True),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(
                FusionGroup(("conv2d", "linear"), clamps, weighted=True),
                FusionGroup(("add",), ("relu",), output=False),  # a tensor has one scale for all that read it
            ),
            transparent=frozenset({
                "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "max_pool2d", "dropout",
                "clone", "contiguous",
            }),
            channel_multiple=8,
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str]:
        from packlight.model.integers import freeze
        from packlight.targets.mnn_scales import take_scales
        from packlight.targets.onnx_convert import convert
        from packlight.targets.onnx_graph import strip
        from packlight.targets.trial import run_beside

        graph = convert(freeze(model.copy().eval()))
        scales = take_scales(graph)
        strip(graph)
        halved = form == "float16" and not scales.static
        _convert(graph, path, scales, half=halved, name=model.name)
        session = _MnnSession(path, 1)
        wanted = [s.name for s in model.inputs], [s.name for s in model.outputs]
        if (session.inputs, session.outputs) != wanted:
            raise PacklightError(
                f"MNN's converter changes the ends of {model.name}: {session.inputs} → {session.outputs} instead of "
                f"{wanted[0]} → {wanted[1]}; use another target"
            )
        run_beside(model, session, dims, "MNN's converter", _WORST_FLOAT16 if halved else None)
        return _notes(scales, form)

    def open(self, path: Path, threads: int) -> Session:
        return _MnnSession(path, threads)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {p: version(p) for p in ("mnn", "onnx", "onnx-ir", "onnxscript", "torch")}


def _notes(scales: Scales, form: str) -> list[str]:
    told = []
    if scales.stored and not scales.bits:
        told.append(f"{scales.stored} layers with integer weights are stored as float32: MNN would round them anew")
    if form == "float16" and scales.static:
        told.append("weights beside int8 layers stay float32")
    return told


def _convert(graph: Any, path: Path, scales: Scales, *, half: bool, name: str) -> None:
    """Run the converter on a graph in float."""
    import onnx_ir

    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        source, listed = Path(folder) / "network.onnx", Path(folder) / "scales.json"
        onnx_ir.save(graph, source)
        options = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), "--bizCode", "packlight",
                   "--useOriginRNNImpl"]  # fmt: skip
        if scales.layers:
            algorithm = {"type": "QUANTIZE", "quantParams": {"layer": scales.layers}}
            listed.write_text(json.dumps({"version": "0.0.0", "algo": [algorithm]}), encoding="utf-8")
            options += ["--compressionParamsFile", str(listed)]
        if scales.bits:
            options += ["--weightQuantBits", str(scales.bits), "--weightQuantAsymmetric=false"]
        if half:
            options.append("--fp16")
        done = subprocess.run([sys.executable, "-c", _CONVERT, *options], cwd=folder, capture_output=True, text=True,
                              errors="replace", timeout=_LIMIT_S, check=False)  # fmt: skip
    if done.returncode or not path.is_file():
        raise PacklightError(f"MNN cannot convert {name}: {_reason(done.stdout + done.stderr)}")
    _name_by_content(path)


def _reason(said: str) -> str:
    """What the converter complains about; its last line where it does not."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "not support" in line.lower() or "error" in line.lower()]
    return (telling or lines or ["no reason given"])[-1][:300]


def _name_by_content(path: Path) -> None:
    """The random name that every file is given → one made of its content, so that the same network becomes the same
    file."""
    import MNN

    given = MNN.get_model_uuid(str(path)).encode()
    content = path.read_bytes()
    if len(given) != 36 or content.count(given) != 1:
        raise PacklightError(f"MNN wrote {path.name} without the name that is expected in its files")
    made = uuid.UUID(bytes=hashlib.sha256(content.replace(given, b"")).digest()[:16])
    path.write_bytes(content.replace(given, str(made).encode()))


class _MnnSession(Session):
    def __init__(self, path: Path, threads: int):
        import MNN

        self._expr = MNN.expr
        options = {"precision_mode": MNN.expr.PrecisionMode.High, "thread_num": threads}
        try:
            found = MNN.nn.load_module_from_file(str(path), [], [], **options).get_info()
            self.inputs: list[str] = found["inputNames"]
            self.outputs: list[str] = found["outputNames"]
            self._module = MNN.nn.load_module_from_file(str(path), self.inputs, self.outputs, **options)
        except (SystemError, RuntimeError, KeyError) as error:
            raise PacklightError(
                f"MNN cannot open {path.name}: the file is damaged, not MNN's, or lacks an output"
            ) from error

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        import numpy as np

        given = []
        for value in inputs:
            kind = self._expr.int if value.dtype.kind in "iub" else self._expr.float
            plain = np.ascontiguousarray(value, np.int32 if kind == self._expr.int else np.float32)
            given.append(self._expr.const(plain, list(plain.shape), self._expr.NCHW, kind))
        results = []
        for output in self._module.onForward(given):
            held = self._expr.convert(output, self._expr.NCHW)  # what it reads lives as long as it does
            values = held.read()
            results.append(np.array(values, np.int64 if values.dtype.kind == "i" else None))  # it has no int64
        return results

"""LiteRT (TensorFlow Lite) on the CPU: float32, float16-stored weights, and int8 as its kernels run it.

Its static kernels take and give int8 with a zero point, weights of int8 a channel, and int32 biases; XNNPACK runs them.
Linear layers and convolutions whose weights alone are integers, or whose ranges are taken at run time, become its
hybrid kernels, which round the activations of every row to 8 bits at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics


class LiteRT(Target):
    """Google's LiteRT, CPU with XNNPACK, in an environment of its own: its converter's requirements exclude ours."""

    name = "litert"
    install = "packlight targets install litert"
    suffix = ".tflite"
    packages = ("litert_torch", "ai_edge_litert")
    forms = ("float32", "float16")
    keeps_dynamic = False
    environment = "litert"

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import Format, FusionGroup, Numerics

        clamps = ("relu", "relu6", "hardtanh")
        return Numerics(
            activation=Format(8, signed=True, symmetric=False),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(
                FusionGroup(("conv1d", "conv2d", "linear"), clamps, weighted=True),
                FusionGroup(("add",), ("relu",)),
                FusionGroup(("mul",), ()),
                FusionGroup(("cat", "concat"), ()),
                FusionGroup(("avg_pool2d", "adaptive_avg_pool2d"), ()),
            ),
            transparent=frozenset({
                "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose",
                "max_pool1d", "max_pool2d", "upsample_nearest2d", "dropout", "clone", "contiguous",
            }),
            shared=frozenset({"cat", "concat"}),
            channel_multiple=8,
            dynamic=frozenset({"linear"}),
            stored=frozenset({"embedding"}),
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str]:
        from packlight.targets.litert_convert import convert
        from packlight.targets.litert_file import finish
        from packlight.targets.trial import run_beside

        content, stored = convert(model, dims)
        content, notes = finish(content, model.inputs, model.outputs, stored, float16=form == "float16")
        path.write_bytes(content)
        run_beside(model, _LiteRTSession(path, 1), dims, "LiteRT's converter")
        return notes

    def open(self, path: Path, threads: int) -> Session:
        return _LiteRTSession(path, threads)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {p: version(p) for p in ("ai-edge-litert", "litert-torch", "litert-converter", "torch")}


class _LiteRTSession(Session):
    def __init__(self, path: Path, threads: int):
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            told = " ".join(str(error).split())
            raise PacklightError(f"LiteRT cannot open {path.name}: {told}") from error
        self._inputs = [d["index"] for d in self._interpreter.get_input_details()]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

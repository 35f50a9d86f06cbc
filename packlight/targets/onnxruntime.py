"""ONNX Runtime on the CPU: float32, float16-stored weights, and int8 as QDQ graphs.

uint8 activations with int8 weights are what its kernels run fastest on a CPU with VNNI; a convolution and
a residual addition write uint8 only, so their results are quantized too, and without that the additions
would run in float between conversions and cost more than they save.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics

OPSET = 18
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
        from packlight.model.numerics import Format, FusionGroup, Numerics

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
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> None:
        import onnx_ir

        from packlight.model.integers import freeze
        from packlight.targets.onnx_graph import finish

        graph = _convert(freeze(model.copy().eval()))
        finish(graph, float16=form == "float16")
        size = sum(v.const_value.nbytes for v in graph.graph.initializers.values() if v.const_value is not None)
        if size > _MAX_BYTES:
            raise PacklightError(f"{model.name} takes {size / 1e9:.1f} GB as ONNX, single files hold 2 GB at most")
        onnx_ir.save(graph, path)

    def open(self, path: Path, threads: int) -> Session:
        return _OrtSession(path, threads)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {p: version(p) for p in ("onnxruntime", "onnx", "onnx-ir", "onnxscript", "torch")}


class _OrtSession(Session):
    def __init__(self, path: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [i.name for i in self._session.get_inputs()]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        outputs: list[Any] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs


def _convert(model: Model) -> Any:
    """The Model as an onnx_ir.Model with the user's names on inputs, outputs, dimensions and operators."""
    import torch
    from torch.fx import Interpreter
    from torch.fx.traceback import preserve_node_meta

    class Named(torch.nn.Module):
        """Runs the graph node by node, so that export carries each layer's name along."""

        def __init__(self) -> None:
            super().__init__()
            self.network = model.graph_module

        def forward(self, *inputs: Any) -> Any:
            with preserve_node_meta():
                return Interpreter(self.network).run(*inputs)

    for node in model.nodes:
        node.meta["custom"] = {"layer": model.layer(node)}
    auto = torch.export.Dim.AUTO
    axes = tuple({i: auto for i, d in enumerate(s.shape) if isinstance(d, str)} for s in model.inputs)
    wide = {d: max(2, n) for d, n in model.dims.items()}
    for name in ("torch.onnx", "torch.export", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(Named(), model.example_inputs(**wide), dynamic_shapes=(axes,), strict=False)
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, verbose=False, optimize=True,
            input_names=[s.name for s in model.inputs], output_names=[s.name for s in model.outputs],
        )  # fmt: skip
    assert exported is not None
    _name(exported.model, model, exported.exported_program)
    return exported.model


def _name(graph: Any, model: Model, program: Any) -> None:
    """Layer names on operators and values, dimension names on shapes."""
    import onnx_ir

    layers = {n.name: n.meta.get("custom", {}).get("layer") for n in program.graph.nodes}
    for value in list(graph.graph.initializers.values()):
        value.name = value.name.removeprefix("network.")
    fixed = {v.name for v in (*graph.graph.inputs, *graph.graph.outputs)}
    taken = set(graph.graph.initializers) | fixed
    for node in graph.graph:
        for value in node.outputs:
            layer = layers.get(value.name)
            if layer is None:
                continue
            node.name = layer
            if value.name not in fixed and layer not in taken:
                taken.add(layer)
                value.name = layer
    symbols = {}
    for spec, value in zip(model.inputs, graph.graph.inputs, strict=True):
        for dim, size in zip(spec.shape, value.shape or (), strict=False):
            if isinstance(dim, str):
                symbols[str(size)] = dim
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([symbols.get(str(d), d) for d in value.shape])


def rounded_bias(bias: Any, scale: Any) -> Any:
    """A float bias as int32 in units of `scale` (> 0), the accumulator's; clipped to what int32 holds."""
    import numpy as np

    limit = math.nextafter(2.0**31, 0)
    return np.clip(np.rint(bias.astype(np.float64) / scale), -(2**31), limit).astype(np.int32)

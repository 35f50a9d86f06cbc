"""ONNX files by hand: nodes as (operator, inputs, attributes), initialisers as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def node(kind: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """inputs, outputs: names apart by spaces, "_" for one that is left out."""
    names = ["" if n == "_" else n for n in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), name=f"the {outputs.split()[0]}", domain=domain, **attributes)


def built(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Any],
    constants: dict[str, np.ndarray] | None = None,
    outputs: str = "y",
    opset: int = 18,
    **more: Any,
) -> onnx.ModelProto:
    """inputs: name → shape, or (shape, type)."""
    given = [(n, *(s if isinstance(s, tuple) else (s, FLOAT))) for n, s in inputs.items()]
    graph = helper.make_graph(
        nodes, "made", [helper.make_tensor_value_info(n, t, s) for n, s, t in given],
        [helper.make_empty_tensor_value_info(n) for n in outputs.split()],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=min(10, 8 if opset < 18 else 10), **more)


def saved(path: Path, *arguments: Any, **options: Any) -> Path:
    """The file that `built` describes."""
    onnx.save(built(*arguments, **options), path)
    return path

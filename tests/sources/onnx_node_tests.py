"""The node tests that the onnx package ships, on packlight: which are left out, and how one is run."""

from __future__ import annotations

import json
import warnings
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from torch import Tensor

from packlight.sources import from_onnx
from packlight.sources.onnx.dtypes import as_torch, read_tensor

LISTED = Path(__file__).with_name("onnx_node_tests.json")
_DOMAINS = ("ai.onnx.ml", "ai.onnx.preview.training")
_NO_TENSORS = ("String", "Regex", "Sequence", "Optional", "ImageDecoder", "TfIdf")
_RANDOM = ("test_bernoulli",)  # only shapes and types can be compared
_BFLOAT16 = 2**-6  # as onnx's own runner: two units in the last place


@cache
def cases() -> dict[str, Any]:
    """Name → test; without the expanded twins, and those of strings, sequences, optionals, training and ai.onnx.ml."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        every = load_model_tests(kind="node")
    return {c.name: c for c in every if "_expanded" not in c.name and _is_ours(c.model.graph)}


def _is_ours(graph: onnx.GraphProto) -> bool:
    values = [*graph.input, *graph.output]
    tensors = all(v.type.WhichOneof("value") == "tensor_type" and v.type.tensor_type.elem_type != 8 for v in values)
    kinds = all(n.domain not in _DOMAINS and not n.op_type.startswith(_NO_TENSORS) for n in graph.node)
    return tensors and kinds


def problem(case: Any, bound: tuple[str, ...]) -> str:
    """ "" where the Model gives the test's outputs, with the inputs of these names as constants; else what is wrong."""
    try:
        for inputs, outputs in case.data_sets:
            _compare(case, inputs, outputs, bound)
    except Exception as error:  # noqa: BLE001  (a test that fails in any way fails)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return ""


def _compare(case: Any, inputs: Any, outputs: Any, bound: tuple[str, ...]) -> None:
    graph = case.model.graph
    given = {v.name: _tensor(x, v) for v, x in zip(graph.input, inputs, strict=True)}
    runtime = {n: t for n, t in given.items() if n not in bound}
    constants = {n: given[n] for n in bound}
    model = from_onnx(onnx_ir.from_proto(case.model), runtime, constants=constants, check=False)
    with torch.no_grad():
        got = model.flat(*(given[s.name] for s in model.inputs))
    for g, v, w in zip(got, graph.output, outputs, strict=True):
        wanted = _tensor(w, v)
        assert (g.shape, g.dtype) == (wanted.shape, wanted.dtype), f"{g.shape} {g.dtype}"
        if not case.name.startswith(_RANDOM):
            rtol = max(case.rtol, _BFLOAT16) if g.dtype == torch.bfloat16 else case.rtol
            np.testing.assert_allclose(_numbers(g), _numbers(wanted), rtol=rtol, atol=case.atol)


def _tensor(given: Any, value: onnx.ValueInfoProto) -> Tensor:
    if isinstance(given, onnx.TensorProto):
        return read_tensor(onnx_ir.from_proto(given))
    return as_torch(np.asarray(given), value.type.tensor_type.elem_type)


def _numbers(tensor: Tensor) -> Any:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double().numpy()


def fewest_bound(case: Any) -> tuple[str, ...] | None:
    """The fewest inputs that must be constants, None where nothing helps."""
    names = [v.name for v in case.model.graph.input]
    for count in range(len(names) + 1):
        for bound in combinations(names, count):
            if not problem(case, bound):
                return bound
    return None


def survey() -> dict[str, dict[str, Any]]:
    """Run every test and write which inputs were bound and what fails, keeping the reasons given before."""
    before = json.loads(LISTED.read_text()) if LISTED.exists() else {"refused": {}}
    found: dict[str, dict[str, Any]] = {"bound": {}, "refused": {}}
    for name, case in cases().items():
        bound = fewest_bound(case)
        if bound is None:
            found["refused"][name] = before["refused"].get(name, problem(case, ()))
        elif bound:
            found["bound"][name] = list(bound)
    LISTED.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    made = survey()

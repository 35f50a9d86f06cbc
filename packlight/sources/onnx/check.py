"""A Model read from an ONNX file proves itself: ONNX Runtime and the Model must give the same outputs.

ONNX Runtime reads the file in a child process, as native code on a foreign file can crash. Where outputs differ, every
intermediate value is compared, and the first operator that differs is named.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from packlight.errors import PacklightError
from packlight.model.model import Model
from packlight.model.operators import KIND, packet
from packlight.model.plausible import plausible_inputs

_SECONDS = 300
# Largest deviation, relative to an output's root mean square. Float kernels sum in other orders; behind a quantizer a
# value at the edge of two steps may round to either, which moves an output by a step here and there.
_TOLERANCE, _QUANTIZED, _HALF = 1e-3, 5e-2, 2e-2
_RANDOM = frozenset("rand randn rand_like randn_like bernoulli".split())
_FLOATS = (torch.float32, torch.float64)


def compare(model: Model, path: Path, constants: Mapping[str, Tensor]) -> None:
    """Raise PacklightError where the Model and ONNX Runtime differ on random inputs, at two batch sizes; without ONNX
    Runtime, or on what it cannot run itself, leave a note."""
    if importlib.util.find_spec("onnxruntime") is None:
        model.notes = (*model.notes, "not compared with ONNX Runtime, which is not installed")
        return
    if any(packet(n) in _RANDOM for n in model.nodes):
        model.notes = (*model.notes, "not compared with ONNX Runtime: the network draws random numbers")
        return
    batch = model.inputs[0].shape[0] if model.inputs and model.inputs[0].shape else None
    sizes = [{}, {batch: 1}] if isinstance(batch, str) else [{}]
    calls = [plausible_inputs(model, dims) for dims in sizes]
    given = [dict(zip((s.name for s in model.inputs), c, strict=True)) | dict(constants) for c in calls]
    try:
        answers = _reference(path, given, [])
    except ReferenceFailed as error:
        model.notes = (*model.notes, f"not compared with ONNX Runtime, which refuses the file: {error}")
        return
    for inputs, named, wanted in zip(calls, given, answers, strict=True):
        with torch.no_grad():
            got = model.flat(*inputs)
        for spec, g, w in zip(model.outputs, got, wanted, strict=True):
            problem = _differs(g, w, _tolerance(model))
            if problem:
                where = _first_difference(model, path, named, inputs)
                raise PacklightError(f"{model.name}: output {spec.name!r} is not ONNX Runtime's ({problem}); {where}; "
                                     "please report this file")  # fmt: skip


class ReferenceFailed(PacklightError):
    """ONNX Runtime cannot run the file."""


def _tolerance(model: Model) -> float:
    if model.is_quantized:
        return _QUANTIZED
    halves = any(t.dtype in (torch.float16, torch.bfloat16) for t in model.named_tensors().values())
    return _HALF if halves else _TOLERANCE


def _differs(got: Tensor, wanted: np.ndarray, tolerance: float) -> str:
    """How two values differ, "" where they agree. Quantized and whole numbers may be a step apart here and there."""
    if tuple(got.shape) != tuple(wanted.shape):
        return f"shape {list(got.shape)}, not {list(wanted.shape)}"
    if not got.numel():
        return ""
    a = got.detach().resolve_conj().cpu()
    a, b = (torch.view_as_real(t) if t.is_complex() else t for t in (a, torch.from_numpy(np.array(wanted))))
    a, b = a.double(), b.double()
    if not got.dtype.is_floating_point and not got.dtype.is_complex:
        apart = float(((a - b).abs() > (1 if got.dtype in (torch.int8, torch.uint8) else 0)).double().mean())
        return f"{apart:.1%} of the elements differ" if apart > (0.02 if tolerance == _QUANTIZED else 0) else ""
    both = a.isfinite() & b.isfinite()
    same = (a == b) | (a.isnan() & b.isnan()) | both
    off = torch.where(both, a - b, torch.zeros_like(a))
    scale = float(torch.where(b.isfinite(), b, torch.zeros_like(b)).square().mean().sqrt())
    error = float(off.square().mean().sqrt())
    if bool(same.all()) and error <= tolerance * scale + 1e-6:
        return ""
    return f"they differ by {error:.3g} in the mean, where values are about {scale:.3g}"


def _first_difference(model: Model, path: Path, given: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> str:
    """The first operator, in order, whose result differs from that of the ONNX node of its name."""
    nodes = [n for n in model.nodes if n.op == "call_function" and "onnx" in n.meta]
    last = {n.meta["onnx"]: n for n in nodes if KIND.get(packet(n)) != "size"}
    try:
        values = dict(zip(last, _reference(path, [given], list(last))[0], strict=True))
    except ReferenceFailed:
        return "which operator it is cannot be said"

    class Watching(Interpreter):
        found = ""

        def run_node(self, n: Node) -> object:
            made = super().run_node(n)
            value = n.meta.get("onnx")
            if not self.found and value in values and last[value] is n and isinstance(made, Tensor):
                problem = _differs(made, values[value], _tolerance(model))
                self.found = problem and f"the first that differs is {model.layer(n)!r} ({problem})"
            return made

    watching = Watching(model.graph_module)
    with torch.no_grad():
        watching.run(*inputs)
    return watching.found or "every operator alone agrees"


def _reference(path: Path, given: Sequence[Mapping[str, Tensor]], values: Sequence[str]) -> list[list[np.ndarray]]:
    """What ONNX Runtime gives in a child process for each of several inputs: the outputs, or the values of these
    names."""
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        place = Path(folder)
        for i, inputs in enumerate(given):
            np.savez(place / f"inputs_{i}.npz", *map(_storable, inputs.values()))
        call = {"path": str(path.resolve()), "names": [*given[0]], "values": [*values], "calls": len(given)}
        (place / "call.json").write_text(json.dumps(call))
        command = [sys.executable, "-P", str(Path(__file__).with_name("reference.py")), folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ReferenceFailed(f"no answer within {_SECONDS} s") from None
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise ReferenceFailed(said[-1][:300] if said else f"it ended with code {done.returncode}")
        return [_stored(place / f"outputs_{i}.npz") for i in range(len(given))]


def _stored(file: Path) -> list[np.ndarray]:
    with np.load(file) as found:
        return [found[name] for name in found.files]


def _storable(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        raise ReferenceFailed("it takes no bfloat16 inputs from Python")
    return tensor.detach().cpu().numpy()

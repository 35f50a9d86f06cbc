"""ncnn on the CPU, by pnnx: float32, and weights stored in float16.

It runs one sample at a time: its tensors have no batch axis. Its converter takes a traced network, and writes what it
does not know as layers that ncnn cannot load, so those are looked for, and every file is run once beside the Model.
"""

from __future__ import annotations

import math
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics

_LIMIT_S = 300.0
_FLOAT = "float"
_KINDS = {"torch.int64": "i64", "torch.int32": "i32", "torch.float32": "f32"}
# Relative errors on random inputs that only a wrong file has. Good ones were seen at 0.014 with float16 weights.
_WORST = {"float32": 1e-2, "float16": 0.1}


class Ncnn(Target):
    """Tencent's ncnn, CPU. A file is a text of layers (.param) and the weights (.bin) beside it."""

    name = "ncnn"
    install = "pip install 'packlight[ncnn]'"
    suffix = ".param"
    packages = ("ncnn", "pnnx")
    forms = ("float32", "float16")
    keeps_dynamic = False

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import Format, Numerics

        return Numerics(
            activation=Format(8, signed=True, symmetric=True),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(),
            channel_multiple=8,
        )

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str]:
        import torch

        from packlight.targets.ncnn_graph import fit
        from packlight.targets.trial import run_beside

        frozen = model.copy().eval()
        inputs = frozen.example_inputs(**dims)
        for spec, value in zip(model.inputs, inputs, strict=True):
            if not value.dim() or value.shape[0] != 1:
                raise PacklightError(
                    f"ncnn runs one sample at a time; input {spec.name} has shape {tuple(value.shape)}"
                )
        with torch.no_grad():
            wanted = frozen.flat(*inputs)
        floats = fit(frozen)
        inputs = tuple(x.float() if i in floats else x for i, x in enumerate(inputs))
        _convert(frozen, inputs, path, half=form == "float16")
        _refuse_unknown(path, model.name)
        _write_shapes(path, [tuple(t.shape) for t in wanted], floats)
        run_beside(model, _NcnnSession(path, 1), dims, "pnnx", _WORST[form])
        return []

    def open(self, path: Path, threads: int) -> Session:
        return _NcnnSession(path, threads)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {p: version(p) for p in ("ncnn", "pnnx", "torch")}


def _convert(model: Model, inputs: Sequence[Any], path: Path, *, half: bool) -> None:
    """Trace, and run pnnx."""
    import pnnx
    import torch

    with tempfile.TemporaryDirectory(prefix="packlight-") as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = Path(folder) / "net.pt"
        torch.jit.trace(model.graph_module, tuple(inputs), check_trace=False).save(str(traced))  # type: ignore[no-untyped-call]
        shapes = ",".join(f"[{','.join(map(str, t.shape))}]{_KINDS.get(str(t.dtype), '')}" for t in inputs)
        command = [pnnx.EXEC_PATH, str(traced), f"inputshape={shapes}", f"fp16={int(half)}",
                   f"ncnnparam={path}", f"ncnnbin={path.with_suffix('.bin')}"]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode or not path.is_file() or not path.with_suffix(".bin").is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PacklightError(f"pnnx cannot convert {model.name}: {said[-1] if said else 'no output'}")


def _refuse_unknown(path: Path, name: str) -> None:
    """Layers that ncnn does not have, all of them with how many there are."""
    import ncnn

    kinds = Counter(line.split()[0] for line in path.read_text().splitlines()[2:] if line.strip())
    known = {kind: ncnn.layer_to_index(kind) >= 0 for kind in kinds} if hasattr(ncnn, "layer_to_index") else {}
    unknown = {k: n for k, n in kinds.items() if not known.get(k, "." not in k and k[0].isupper() and "::" not in k)}
    if unknown:
        told = ", ".join(f"{kind.removeprefix('pnnx.')} ({count})" for kind, count in sorted(unknown.items()))
        raise PacklightError(
            f"ncnn has no layer for these operators of {name}: {told}; rewrite them, or use another target"
        )


def _write_shapes(path: Path, shapes: Sequence[tuple[int, ...]], floats: Sequence[int]) -> None:
    """The outputs' shapes, in a file of their own: ncnn's tensors have no batch axis. Then the inputs that are integers
    in the Model, and floats here."""
    lines = [*(f"# {' '.join(map(str, s))}" for s in shapes), *(f"{_FLOAT} in{i}" for i in floats)]
    path.with_suffix(".shapes").write_text("\n".join(lines) + "\n")


class _NcnnSession(Session):
    def __init__(self, path: Path, threads: int):
        import ncnn

        self._ncnn, self._net = ncnn, ncnn.Net()
        options = self._net.opt
        options.num_threads, options.use_vulkan_compute = threads, False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        shapes = path.with_suffix(".shapes")
        whole = shapes.is_file() and path.is_file() and _is_whole(path)
        if not whole or self._net.load_param(str(path)) or self._net.load_model(str(path.with_suffix(".bin"))):
            raise PacklightError(f"ncnn cannot load {path.name} and its .bin: the files are damaged or not ncnn's")
        lines = shapes.read_text().splitlines()
        self._shapes = [tuple(map(int, line.split()[1:])) for line in lines if line.startswith("#")]
        self._floats = {line.split()[1] for line in lines if line.startswith(_FLOAT)}
        self._inputs, self._outputs = (
            sorted(n, key=_number) for n in (self._net.input_names(), self._net.output_names())
        )

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        import numpy as np

        with self._net.create_extractor() as extractor:
            held = []
            for name, value in zip(self._inputs, inputs, strict=True):
                sample = np.ascontiguousarray(value[0] if value.ndim > 1 else value)
                kind = np.float32 if name in self._floats else np.int32
                held.append(sample.astype(kind) if sample.dtype.kind in "iub" else sample)
                if extractor.input(name, self._ncnn.Mat(held[-1]).clone()):
                    raise PacklightError(f"ncnn does not take input {name}")
            results = []
            for name, shape in zip(self._outputs, self._shapes, strict=True):
                code, found = extractor.extract(name)
                values = np.array(found)
                if code or values.size != math.prod(shape):
                    raise PacklightError(f"ncnn does not give output {name} of shape {shape}")
                results.append(values.reshape(shape))
            return results


def _number(name: str) -> int:
    """pnnx names inputs in0, in1, …, and outputs out0, …; ncnn lists them in the order of the layers."""
    return int(name.lstrip("inout"))


def _is_whole(path: Path) -> bool:
    """Whether a file has the layers that its second line counts: ncnn reads past the end of one that is cut short."""
    lines = path.read_text(errors="replace").splitlines()
    counts = lines[1].split() if len(lines) > 1 else []
    return len(counts) == 2 and counts[0].isdigit() and len([x for x in lines[2:] if x.strip()]) == int(counts[0])

"""Core ML, Apple's runtime: float32, float16, int8 and tables of weights, as ML programs.

coremltools converts anywhere; only macOS predicts, so elsewhere files are written and not run. Its PyTorch front end
takes our quantize and dequantize operators as they are, so scales and integers in the file are the Model's. Weights
that share a few values become a table and indices, and the table holds just these values.

An ML program is a folder (.mlpackage). It is written as a zip of it, stored without compression and with fixed times:
one file has one hash, copies whole, and is the same for the same network. Unpacked, it is what Xcode takes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import uuid
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics

_LOGGERS = ("coremltools", "torch", "torchao")
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_PROGRAM = "com.apple.CoreML/model.mlmodel"
_TABLE = 256  # values, in 8 bits
_SMALL = 2048  # elements that coremltools leaves alone


class CoreML(Target):
    """Apple's Core ML."""

    name = "coreml"
    install = "pip install 'packlight[coreml]'"
    suffix = ".zip"
    packages = ("coremltools",)
    forms = ("float32", "float16")
    keeps_dynamic = False
    runs_on = ("darwin",)

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import Format, FusionGroup, Numerics

        clamps = ("relu", "relu6", "hardtanh")
        return Numerics(
            activation=Format(8, signed=True, symmetric=False),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(
                FusionGroup(("conv1d", "conv2d", "linear"), clamps, weighted=True, output=False),
                FusionGroup(("add",), ("relu",), output=False),
            ),
            transparent=frozenset({
                "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "max_pool1d",
                "max_pool2d", "dropout", "clone", "contiguous",
            }),
            channel_multiple=8,
            stored=frozenset({"embedding"}),
            tables=True,
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str]:
        from packlight.model.codebooks import lookups
        from packlight.model.integers import freeze

        frozen = freeze(model.copy().eval())
        tables = {tuple(n.meta["val"].shape) for n in lookups(frozen)}
        with _quiet():
            import coremltools

            precision = coremltools.precision.FLOAT16 if form == "float16" else coremltools.precision.FLOAT32
            try:
                made = coremltools.convert(
                    _program(frozen, dims), convert_to="mlprogram", skip_model_load=True, compute_precision=precision,
                    minimum_deployment_target=coremltools.target.iOS18,
                )  # fmt: skip
                if tables:
                    made = _with_tables(made)
            except (ValueError, NotImplementedError, RuntimeError, KeyError, AssertionError, TypeError) as error:
                told = " ".join(str(error).split())[:300]
                raise PacklightError(f"coremltools cannot convert {model.name}: {told}") from error
            _name_ends(made, model)
            with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
                package = Path(folder) / "network.mlpackage"
                made.save(str(package))
                _pack(package, path)
        return []

    def open(self, path: Path, threads: int) -> Session:
        return _CoreMLSession(path)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {p: version(p) for p in ("coremltools", "torch")}


def _program(model: Model, dims: Mapping[str, int]) -> Any:
    """An exported program in ATen operators, every argument written out: coremltools counts them."""
    import torch

    with torch.no_grad():
        exported = torch.export.export(model.graph_module, model.example_inputs(**dims), strict=False)
        program = exported.run_decompositions({})
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
        if schema is None:
            continue
        args, kwargs = list(node.args), dict(node.kwargs)
        for argument in schema.arguments[len(args) :]:
            if argument.kwarg_only or not (argument.name in kwargs or argument.has_default_value()):
                break
            args.append(kwargs.pop(argument.name, argument.default_value))
        node.args, node.kwargs = tuple(args), kwargs
    return program


def _with_tables(made: Any) -> Any:
    """Weights of at most 256 values → a table of these values and indices."""
    import numpy as np
    from coremltools.optimize import coreml

    found = coreml.get_weights_metadata(made, weight_threshold=_SMALL)
    few = [n for n, w in found.items() if w.val.dtype.kind == "f" and len(np.unique(w.val)) <= _TABLE]

    def table(weight: Any) -> tuple[Any, Any]:
        values, indices = np.unique(weight, return_inverse=True)
        bits = next(b for b in (1, 2, 3, 4, 6, 8) if len(values) <= 2**b)
        padded = np.pad(values, (0, 2**bits - len(values)), mode="edge")
        return padded, indices.reshape(weight.shape).astype(np.uint8)

    chosen = coreml.OpPalettizerConfig(mode="custom", lut_function=table, weight_threshold=0)
    return coreml.palettize_weights(made, coreml.OptimizationConfig(op_name_configs=dict.fromkeys(few, chosen)))


def _name_ends(made: Any, model: Model) -> None:
    """The user's names on inputs and outputs."""
    from coremltools.models.utils import rename_feature

    description = made._spec.description
    for kind, specs in (("input", model.inputs), ("output", model.outputs)):
        given = [f.name for f in getattr(description, kind)]
        if len(given) != len(specs):
            raise PacklightError(f"coremltools made {len(given)} {kind}s of {model.name}, which has {len(specs)}")
        here = {"rename_inputs": kind == "input", "rename_outputs": kind == "output"}
        for old, spec in zip(given, specs, strict=True):
            if old != spec.name:
                rename_feature(made._spec, old, spec.name, **here)


def _pack(package: Path, path: Path) -> None:
    """A package as a zip that depends on the network alone: names and times are fixed."""
    from coremltools.proto.Model_pb2 import Model as Program

    contents = {p.relative_to(package).as_posix(): p.read_bytes() for p in package.rglob("*") if p.is_file()}
    (listed,) = [name for name in contents if name == "Manifest.json"]
    manifest = json.loads(contents[listed])
    program = next(n for n in contents if n.endswith(".mlmodel"))
    spec = Program.FromString(contents[program])
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    contents[program] = spec.SerializeToString(deterministic=True)
    named = {k: str(uuid.uuid5(uuid.NAMESPACE_URL, v["path"])).upper() for k, v in manifest["itemInfoEntries"].items()}
    manifest["itemInfoEntries"] = {named[k]: v for k, v in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = named[manifest["rootModelIdentifier"]]
    contents[listed] = json.dumps(manifest, indent=2, sort_keys=True).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(f"{package.name}/{name}", _EARLIEST), contents[name])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without coremltools' warnings about versions and its progress bars."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class _CoreMLSession(Session):
    def __init__(self, path: Path):
        self._folder = tempfile.TemporaryDirectory(prefix="packlight-")
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(self._folder.name)
        except zipfile.BadZipFile as error:
            raise PacklightError(f"Core ML cannot open {path.name}: {error}") from error
        with _quiet():
            from coremltools.models import MLModel

            (package,) = Path(self._folder.name).glob("*.mlpackage")
            self._model = MLModel(str(package))
        description = self._model.get_spec().description
        self._inputs, self._outputs = [f.name for f in description.input], [f.name for f in description.output]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        import numpy as np

        plain = [x.astype(np.int32) if x.dtype.kind in "iub" else x for x in inputs]
        found = self._model.predict(dict(zip(self._inputs, plain, strict=True)))
        return [np.asarray(found[name]) for name in self._outputs]

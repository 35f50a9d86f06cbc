"""PyTorch compiled ahead of time (AOTInductor): float32, and int8 with oneDNN's kernels.

A file holds native code for processors like the one that it was made on, and opens with PyTorch alone, in Python or
C++. Sizes are fixed: with a dynamic batch, int8 files gave wrong answers (torch 2.13).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import MissingRuntime, PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_VIEWS = frozenset(
    "alias clone contiguous detach dropout expand flatten narrow permute reshape select slice squeeze swapaxes "
    "transpose t to unflatten unsqueeze view".split()
)


class AotInductor(Target):
    """torch.compile's back end for the CPU, without Python."""

    name = "aotinductor"
    install = "apt-get install g++"
    suffix = ".pt2"
    packages = ("torch",)
    forms = ("float32",)
    keeps_dynamic = False

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import Format, FusionGroup, Numerics

        clamps = ("relu", "relu6", "hardtanh")
        return Numerics(
            activation=Format(8, signed=False, symmetric=False),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(
                FusionGroup(("conv2d", "linear"), clamps, weighted=True, output=False),
                FusionGroup(("add",), ("relu",), output=False),
                FusionGroup(("cat", "concat"), (), output=False),
            ),
            transparent=frozenset({
                "view", "reshape", "flatten", "permute", "transpose", "max_pool2d", "dropout", "clone", "contiguous",
            }),
            channel_multiple=16,
        )  # fmt: skip

    def require(self) -> None:
        super().require()
        if not _compiler():
            raise MissingRuntime(f"target {self.name!r} needs a C++ compiler, g++ or $CXX; run: {self.install}")

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str]:
        import torch

        from packlight.model.integers import freeze
        from packlight.model.silence import silenced
        from packlight.targets.aotinductor_package import instructions, pack
        from packlight.targets.trial import run_beside

        frozen = freeze(model.copy().eval())
        keep_from_accumulating(frozen)
        with tempfile.TemporaryDirectory(prefix="packlight-") as folder, silenced(), torch.no_grad():
            os.environ[_CACHE] = folder
            program = torch.export.export(frozen.graph_module, frozen.example_inputs(**dims), strict=False)
            made = Path(folder) / "network.pt2"
            torch._inductor.aoti_compile_and_package(program, package_path=str(made), inductor_configs=_options())
            pack(made, path, (folder, str(Path(torch.__file__).parent)))
        run_beside(model, _InductorSession(path, 1), dims, "AOTInductor")
        return [f"native code for processors with {instructions(path)}"]

    def open(self, path: Path, threads: int) -> Session:
        return _InductorSession(path, threads)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {"torch": version("torch")}


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def _options() -> dict[str, Any]:
    return {
        "freezing": True,  # weights are packed for the kernels; without it int8 is not fused at all
        "compile_threads": 1,  # no pool of processes for one file
        "cpp.threads": os.cpu_count() or 1,
        "cpp.dynamic_threads": True,  # the number of threads is chosen when the file is opened, not here
        "aot_inductor.precompile_headers": False,  # each header is read once
    }


def keep_from_accumulating(model: Model) -> None:
    """x + c → x − (−c), in place, where an addend is a constant or an input of the network. The values are the same to
    the last bit. Inductor adds the other addend into that memory where it fuses an addition with the layer before it:
    from the second run on a parameter [1, T, D] added to a quantized linear layer holds all that was added to it.
    """
    import torch

    from packlight.model.operators import packet

    aten, graph = torch.ops.aten, model.graph_module.graph
    for node in model.nodes:
        if packet(node) != "add" or node.kwargs or not all(isinstance(a, torch.fx.Node) for a in node.args):
            continue
        held = [a for a in node.all_input_nodes if _is_held(a) and _is_float(a)]
        if not held or not _is_float(node):
            continue
        kept = held[0]
        rest = node.args[1] if node.args[0] is kept else node.args[0]
        with graph.inserting_before(node):
            negative = graph.call_function(aten.neg.default, (kept,))
            difference = graph.call_function(aten.sub.Tensor, (rest, negative))
        negative.meta.update(val=kept.meta.get("val"), layer=f"{model.layer(node)}.negative")
        difference.meta.update(node.meta)
        node.replace_all_uses_with(difference)
        graph.erase_node(node)
    model.graph_module.recompile()


def _is_held(node: Any) -> bool:
    """Whether a value is memory that outlives a run: a constant, an input, or a view of one."""
    from packlight.model.operators import packet

    while packet(node) in _VIEWS and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.op in ("get_attr", "placeholder")


def _is_float(node: Any) -> bool:
    value = node.meta.get("val")
    return value is not None and value.dtype.is_floating_point


class _InductorSession(Session):
    def __init__(self, path: Path, threads: int):
        import torch

        torch.set_num_threads(threads)
        try:
            self._run = torch._inductor.aoti_load_package(str(path))
        except (RuntimeError, ValueError) as error:
            raise PacklightError(f"PyTorch cannot open {path.name}: {' '.join(str(error).split())[:200]}") from error

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        import torch

        with torch.inference_mode():
            return [t.numpy().copy() for t in self._run(*(torch.tensor(x) for x in inputs))]

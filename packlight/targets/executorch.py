"""ExecuTorch with XNNPACK, which is PyTorch's runtime for phones: float32, and int8 as XNNPACK's kernels run it.

A program has fixed sizes. Operators that XNNPACK does not take run in ExecuTorch's portable kernels, which are slow;
the manifest's notes name them.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics

_LOGGERS = ("executorch", "torchao", "torch")


class ExecuTorch(Target):
    """PyTorch's ExecuTorch on the CPU, delegated to XNNPACK."""

    name = "executorch"
    install = "pip install 'packlight[executorch]'"
    suffix = ".pte"
    packages = ("executorch",)
    forms = ("float32",)
    keeps_dynamic = False

    @cached_property
    def numerics(self) -> Numerics:
        from packlight.model.numerics import Format, FusionGroup, Numerics

        clamps = ("relu", "relu6", "hardtanh")
        return Numerics(
            activation=Format(8, signed=True, symmetric=False),
            weight=Format(8, signed=True, symmetric=True, per_channel=True),
            groups=(
                FusionGroup(("conv2d", "linear"), clamps, weighted=True),
                FusionGroup(("add",), ("relu",)),
                FusionGroup(("mul",), ()),
                FusionGroup(("cat", "concat"), ()),
            ),
            # Not unsqueeze: a depthwise convolution behind a quantized one is a file that does not open.
            transparent=frozenset({"view", "reshape", "flatten", "permute", "transpose", "max_pool2d", "dropout",
                                   "clone", "contiguous"}),
            shared=frozenset({"cat", "concat"}),
            channel_multiple=8,
            dynamic=frozenset({"linear"}),
        )  # fmt: skip

    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str]:
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from packlight.model.integers import freeze
        from packlight.targets.adapt import give_each_reader_its_own
        from packlight.targets.trial import run_beside

        model = freeze(model.copy().eval())
        give_each_reader_its_own(model)  # XNNPACK's partitions would tie themselves into a circle
        convolve_in_planes(model)
        with _quiet(), torch.no_grad():
            program = torch.export.export(model.graph_module, model.example_inputs(**dims), strict=False)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            path.write_bytes(lowered.to_executorch().buffer)
        run_beside(model, _ExecuTorchSession(path, 1), dims, "ExecuTorch's converter")
        called = Counter(n.target.__name__ for n in lowered.exported_program().graph.nodes if n.op == "call_function")
        slow = {name: count for name, count in called.items() if name not in ("executorch_call_delegate", "getitem")}
        told = ", ".join(f"{name} × {count}" for name, count in sorted(slow.items()))
        return [f"outside XNNPACK, in slow portable kernels: {told}"] if slow else []

    def open(self, path: Path, threads: int) -> Session:
        return _ExecuTorchSession(path, threads)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {p: version(p) for p in ("executorch", "torch")}


def convolve_in_planes(model: Model) -> None:
    """conv1d → conv2d of a height of 1, in place: XNNPACK opens no file where what a conv1d gives is quantized."""
    import torch

    aten, graph = torch.ops.aten, model.graph_module.graph
    for node in model.nodes:
        weight = node.args[1] if node.target is aten.conv1d.default else None
        if not isinstance(weight, torch.fx.Node) or weight.op != "get_attr":
            continue
        kernel = model.tensor(weight).detach().unsqueeze(2)
        name = f"{weight.target}_plane"
        model.set_tensor(name, kernel)
        given = list(node.args)
        plain: list[Any] = [None, [1], [0], [1], 1]
        bias, *sizes, groups = given[2:] + plain[len(given) - 2 :]
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
            plane = graph.call_function(aten.unsqueeze.default, (given[0], 2))
            settings = ([first, *size] for first, size in zip((1, 0, 1), sizes, strict=True))
            wide = graph.call_function(aten.conv2d.default, (plane, constant, bias, *settings, groups))
            line = graph.call_function(aten.squeeze.dim, (wide, 2))
        for made, value in ((constant, kernel), (line, node.meta["val"])):
            made.meta["val"] = torch.empty_like(value, device="meta")
        for made in (plane, wide, line):
            made.meta["layer"] = model.layer(node)
        node.replace_all_uses_with(line)
        graph.erase_node(node)
    model.graph_module.recompile()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class _ExecuTorchSession(Session):
    def __init__(self, path: Path, threads: int):
        import torch
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime, Verification

        torch.set_num_threads(threads)
        _unsafe_reset_threadpool(threads)
        try:
            self._program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
            self._method = self._program.load_method("forward")
        except RuntimeError as error:
            raise PacklightError(f"ExecuTorch cannot open {path.name}: {' '.join(str(error).split())}") from error
        if self._method is None:
            raise PacklightError(f"ExecuTorch finds no method in {path.name}")

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        import torch

        outputs = self._method.execute([torch.from_numpy(x) for x in inputs])
        return [o.numpy().copy() for o in outputs]

"""A captured network proves itself: it and the original must give the same outputs, at more sizes than one.

torch.export fixes Python branches at the sizes of the example. So the graph is run beside the module at size 1 and at
another size of every dynamic dimension; where they differ, the dimension is limited or fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from packlight.errors import PacklightError
from packlight.model.operators import packet
from packlight.sources.example import Example
from packlight.sources.outputs import symbol, user_inputs

_RANDOM = frozenset("rand randn rand_like randn_like bernoulli exponential uniform rrelu".split())
_ANY = 2**31 - 1
# Largest deviation, relative to an output's largest magnitude. Graph and module run the same kernels; where memory is
# laid out differently these sum in another order, a few units in the last place a layer. A wrong graph is off by more.
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2, torch.float64: 1e-6}
_TOLERANCE_FLOAT32 = 1e-3


def proven_limits(
    module: nn.Module, captured: GraphModule, example: Example, program: ExportedProgram, *, loosely: bool = False
) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """Compare graph and module. Returns dimension → (lowest, highest) size, and dimensions that must be fixed.

    loosely: compare to 5 % only, for a network with autocast regions. Where outputs are random, shapes are compared.
    Raises PacklightError when they differ at the example's own size.
    """
    random = any(packet(n) in _RANDOM for n in captured.graph.nodes)
    tolerance = math.inf if random else 5e-2 if loosely else None
    limits, fixed = {}, set()
    for dim, size in example.sizes.items():
        low, high = _range(program, example, dim)
        if low <= 2 and not _differs(module, captured, example.resized(dim, 1), tolerance):
            low = 1
        if (low, high) != (1, _ANY):
            limits[dim] = (low, high)
        if size < high and _differs(module, captured, example.resized(dim, size + 1), tolerance):
            fixed.add(dim)
    if not example.sizes or fixed:
        problem = _differs(module, captured, example, tolerance)
        if problem:
            raise PacklightError(f"{type(module).__name__} was captured wrongly: {problem}; please report this network")
    return limits, fixed


def _range(program: ExportedProgram, example: Example, dim: str) -> tuple[int, int]:
    """What torch.export assumed of a dimension; it never looks below 2."""
    for name, node in zip(example.names, user_inputs(program, example), strict=True):
        for axis, d in example.dynamic.get(name, {}).items():
            bounds = program.range_constraints.get(symbol(node, axis)) if d == dim else None
            if bounds is not None:
                return int(bounds.lower), int(min(bounds.upper, _ANY))
    return 2, _ANY


def _differs(module: nn.Module, captured: GraphModule, example: Example, tolerance: float | None) -> str:
    """How graph and module disagree on these inputs, "" where they agree or the module itself refuses the inputs."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _kept(module):
        torch.manual_seed(0)
        try:
            wanted = [t for t in pytree.tree_leaves(example.cloned().call(module)) if isinstance(t, Tensor)]
        except Exception:  # noqa: BLE001  # the user's own forward: what it refuses, the graph may do with as it likes
            return ""
        torch.manual_seed(0)
        try:
            got = captured(*example.leaves)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            return str(error).strip().splitlines()[0]
        return next((p for p in map(_difference, got, wanted, [tolerance] * len(got)) if p), "")


def _difference(got: Tensor, wanted: Tensor, tolerance: float | None) -> str:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"an output is {got.dtype} {list(got.shape)}, the network's {wanted.dtype} {list(wanted.shape)}"
    if tolerance == math.inf or not got.numel():
        return ""
    if not got.dtype.is_floating_point and not got.dtype.is_complex:
        tolerance = 0.0
    elif tolerance is None:
        tolerance = _TOLERANCE.get(got.dtype, _TOLERANCE_FLOAT32)
    got, wanted = (torch.view_as_real(t) if t.is_complex() else t for t in (got, wanted))
    got, wanted = got.double(), wanted.double()
    limit = tolerance * float(wanted[wanted.isfinite()].abs().max()) if wanted.isfinite().any() else 0.0
    same = (got - wanted).abs() <= limit
    same |= (got == wanted) | (got.isnan() & wanted.isnan())
    return "" if bool(same.all()) else f"{int((~same).sum())} of {same.numel()} values of an output differ"


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Call attention without its fused eval kernel, which sums in another order; undo what calls do to buffers."""
    before = [(b, b._version, b.clone()) for b in module.buffers()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for buffer, version, saved in before:
            if buffer._version != version:
                buffer.copy_(saved)

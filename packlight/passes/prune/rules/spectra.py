"""Fourier transforms: every position of a transformed axis meets every other; the other axes are carried."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from packlight.model.operators import argument
from packlight.passes.prune.labels import Layout
from packlight.passes.prune.rules.table import Walk, axis_of, rule

_ONE = ("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft")
_TWO = ("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2")
_MORE = ("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn")


@rule(*_ONE, *_TWO, *_MORE)
def transformed(walk: Walk, node: Node) -> Layout:
    layout = walk.layout(node.args[0])
    given: Any = argument(node, "dim")
    dims = range(len(layout)) if given is None else [given] if isinstance(given, int) else given
    at = [axis_of(d, len(layout)) for d in dims]
    walk.freeze([layout[a] for a in at], walk.why(node))
    return walk.without(layout, at, keepdim=True)


@rule("real", "imag", "complex", "polar")
def parts(walk: Walk, node: Node) -> Layout:
    return walk.elementwise(node, node.args)


@rule("view_as_real")
def pairs(walk: Walk, node: Node) -> Layout:
    return (*walk.layout(node.args[0]), None)


@rule("view_as_complex")
def numbers(walk: Walk, node: Node) -> Layout:
    layout = walk.layout(node.args[0])
    walk.freeze(layout[-1:], walk.why(node))
    return walk.without(layout, [len(layout) - 1])

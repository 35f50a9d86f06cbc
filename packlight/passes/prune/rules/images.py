"""Operators on images, sequences of samples, and volumes: axis 1 is channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from packlight.model.operators import argument, packet
from packlight.passes.prune.labels import Axis, Layout, reshape
from packlight.passes.prune.rules.table import Walk, rule


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
      "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
      "max_pool2d_with_indices", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
      "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d",
      "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "reflection_pad1d", "reflection_pad2d",
      "replication_pad1d", "replication_pad2d", "reflection_pad3d", "replication_pad3d", "adaptive_max_pool3d",
      "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "max_pool3d_with_indices", "grid_sampler", "grid_sampler_2d",
      "grid_sampler_3d")  # fmt: skip
def spatial(walk: Walk, node: Node) -> Any:
    """Axis 1 is channels; pixels, and what says where they are taken from, are never cut."""
    layout = walk.layout(node.args[0])
    pixels = int(next((c for c in packet(node) if c in "123"), len(layout) - 2))
    gone = [len(layout) - pixels + i for i in range(pixels) if not _passes(node, i, pixels)]
    walk.freeze([layout[a] for a in gone], walk.why(node))
    for given in (*node.args[1:], *node.kwargs.values()):
        walk.freeze(walk.layout(given), walk.why(node))
    kept = walk.without(layout, gone, keepdim=True)
    value = node.meta.get("val")
    return [kept for _ in value] if isinstance(value, tuple | list) else kept


def _passes(node: Node, i: int, pixels: int) -> bool:
    """Whether a pool leaves the i-th of its axes of pixels as it is: windows of one pixel, one pixel apart. Indices say
    where in an image of the uncut size something is."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    if "kernel_size" not in names or packet(node).endswith("_indices"):
        return False
    kernel, stride, padding = (_spread(argument(node, n), pixels) for n in ("kernel_size", "stride", "padding"))
    return (kernel[i], (stride or kernel)[i], padding[i]) == (1, 1, 0)


def _spread(given: Any, pixels: int) -> list[Any]:
    """A number an axis, of arguments that may be one for all; none where none is given."""
    values = list(given) if isinstance(given, list | tuple) else [given]
    return values * pixels if len(values) == 1 else values


@rule("pad", "constant_pad_nd")
def padded(walk: Walk, node: Node) -> Layout:
    layout, given = list(walk.layout(node.args[0])), argument(node, "pad")
    rank = len(layout)
    for i in range(0, len(given), 2):
        a = rank - 1 - i // 2
        axis, (before, after) = layout[a], given[i : i + 2]
        if axis is None or (before == 0 and after == 0):
            continue
        if all(isinstance(n, int) and n >= 0 for n in (before, after)) and str(argument(node, "mode")
                                                                             if packet(node) == "pad" else
                                                                             "constant") == "constant":  # fmt: skip
            ends = (walk.labels.fresh(before), walk.labels.plain(axis), walk.labels.fresh(after))
            layout[a] = Axis(np.concatenate(ends))
        else:
            walk.freeze([axis], walk.why(node))
            layout[a] = None
        for b, other in enumerate(layout):
            if other is not None and a in other.on:
                layout[b] = Axis(walk.labels.plain(other))
    return tuple(layout)


@rule("pixel_shuffle")
def pixel_shuffle(walk: Walk, node: Node) -> Layout:
    *lead, channels, height, width = walk.layout(node.args[0])
    walk.freeze([height, width], walk.why(node))
    if channels is None:
        return (*lead, None, None, None)
    cells = walk.labels.plain(channels).reshape(-1, _number(node) ** 2)
    walk.labels.tie(cells, cells[:, :1])
    return (*lead, Axis(cells[:, 0]), None, None)


@rule("pixel_unshuffle")
def pixel_unshuffle(walk: Walk, node: Node) -> Layout:
    *lead, channels, height, width = walk.layout(node.args[0])
    walk.freeze([height, width], walk.why(node))
    made = None if channels is None else Axis(np.repeat(walk.labels.plain(channels), _number(node) ** 2))
    return (*lead, made, None, None)


@rule("channel_shuffle")
def channel_shuffle(walk: Walk, node: Node) -> Layout:
    layout, sizes, groups = walk.layout(node.args[0]), walk.shape(node), _number(node)
    apart = [sizes[0], groups, sizes[1] // groups, *sizes[2:]]
    grouped = reshape(walk.labels, layout, sizes, apart)
    to = {0: 0, 1: 2, 2: 1, **{a: a for a in range(3, len(apart))}}
    turned = tuple(walk.renumbered(grouped[a], to) for a in (0, 2, 1, *range(3, len(apart))))
    return reshape(walk.labels, turned, [apart[a] for a in (0, 2, 1, *range(3, len(apart)))], sizes)


@rule("max_unpool2d", "max_unpool3d")
def unpooled(walk: Walk, node: Node) -> Layout:
    """Values at pixels that an index of the same shape names."""
    layout = walk.elementwise(node, node.args[:2])
    pixels = 2 if packet(node) == "max_unpool2d" else 3
    walk.freeze(layout[-pixels:], walk.why(node))
    return (*layout[:-pixels], *[None] * pixels)


@rule("im2col")
def windows(walk: Walk, node: Node) -> Layout:
    """[n, channels, h, w] to [n, channels · taps, windows]."""
    *lead, channels, height, width = walk.layout(node.args[0])
    walk.freeze([height, width], walk.why(node))
    taps = int(np.prod(argument(node, "kernel_size")))
    made = None if channels is None else Axis(np.repeat(walk.labels.plain(channels), taps))
    return (*lead, made, None)


@rule("col2im")
def from_windows(walk: Walk, node: Node) -> Layout:
    *lead, channels, places = walk.layout(node.args[0])
    walk.freeze([places], walk.why(node))
    if channels is None:
        return (*lead, None, None, None)
    cells = walk.labels.plain(channels).reshape(-1, int(np.prod(argument(node, "kernel_size"))))
    walk.labels.tie(cells, cells[:, :1])
    return (*lead, Axis(cells[:, 0]), None, None)


@rule("affine_grid_generator")
def affine_grid(walk: Walk, node: Node) -> Layout:
    walk.freeze(walk.layout(node.args[0]), walk.why(node))
    return (None,) * len(walk.shape(node))


def _number(node: Node) -> int:
    """The second argument of an operator that takes a number there."""
    given: Any = node.args[1]
    return int(given)

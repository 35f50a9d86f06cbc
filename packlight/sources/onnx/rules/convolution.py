"""Convolutions."""

from __future__ import annotations

from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.op import NeedsConstant, Op, Rule, pairs
from packlight.sources.onnx.values import Constant, Operand, Size

aten = torch.ops.aten
_CONV = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
_TRANSPOSED = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}


def conv(op: Op, x: Operand, weight: Operand, bias: Any = None) -> Any:
    """torch pads alike on both sides; what is uneven is padded before."""
    kernel = op.shape(weight)[2:]
    n = len(kernel)
    if n not in _CONV:
        raise PacklightError(f"Conv over {n} axes; packlight takes 1 to 3")
    strides, dilations = op.attribute("strides", [1] * n), op.attribute("dilations", [1] * n)
    amounts = paddings(op, x, kernel, strides, dilations)
    x, padding = evenly_padded(op, x, amounts, 0.0)
    weight, bias = op.parameter(weight), op.parameter(bias)
    return op.call(_CONV[n], x, weight, bias, strides, padding, dilations, op.attribute("group", 1))


def paddings(op: Op, x: Operand, kernel: list[int], strides: list[int], dilations: list[int]) -> list[tuple[Any, Any]]:
    """(before, after) for every spatial axis."""
    mode, n = op.attribute("auto_pad", "NOTSET"), len(kernel)
    if mode == "NOTSET":
        return pairs(op.attribute("pads", [0] * (2 * n)))
    if mode == "VALID":
        return [(0, 0)] * n
    amounts = []
    for size, k, stride, dilation in zip(op.shape(x)[2:], kernel, strides, dilations, strict=True):
        total = dilation * (k - 1) + 1 - stride
        if stride > 1 or (isinstance(size, Size) is False and size < stride):
            if isinstance(size, Size):
                raise NeedsConstant(f"{op.kind} with auto_pad={mode} and a stride pads by the size of its input; "
                                    "fix that size")  # fmt: skip
            total = (-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size
        total = max(total, 0)
        amounts.append((total // 2, total - total // 2) if mode == "SAME_UPPER" else (total - total // 2, total // 2))
    return amounts


def evenly_padded(
    op: Op, x: Operand, amounts: list[tuple[int, int]], fill: float, most: list[int] | None = None
) -> tuple[Any, list[int]]:
    """The input, padded with `fill` where the two ends of an axis differ or exceed `most`, and the padding left."""
    limits = most or [2**31] * len(amounts)
    if all(b == e and 0 <= b <= m for (b, e), m in zip(amounts, limits, strict=True)):
        return x, [b for b, _ in amounts]
    flat = [p for pair in reversed(amounts) for p in pair]
    return op.call(aten.constant_pad_nd.default, x, flat, fill), [0] * len(amounts)


def conv_transpose(op: Op, x: Operand, weight: Operand, bias: Any = None) -> Any:
    kernel = op.shape(weight)[2:]
    n = len(kernel)
    if n not in _TRANSPOSED:
        raise PacklightError(f"ConvTranspose over {n} axes; packlight takes 1 to 3")
    strides, dilations = op.attribute("strides", [1] * n), op.attribute("dilations", [1] * n)
    extra = op.attribute("output_padding", [0] * n)
    amounts = _cut(op, x, kernel, strides, dilations, extra)
    weight, bias = op.parameter(weight), op.parameter(bias)
    even = all(b == e and b >= 0 for b, e in amounts)
    padding = [b for b, _ in amounts] if even else [0] * n
    fits = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    given = extra if fits else [0] * n
    made = op.call(_TRANSPOSED[n], x, weight, bias, strides, padding, given, op.attribute("group", 1), dilations)
    if even and fits:
        return made
    missing = [0 if fits else e for e in extra]
    cut = [(0, 0) if even else pair for pair in amounts]
    flat = [p for (b, e), m in zip(reversed(cut), reversed(missing), strict=True) for p in (-b, m - e)]
    return op.call(aten.constant_pad_nd.default, made, flat, 0.0)


def _cut(
    op: Op, x: Operand, kernel: list[int], strides: list[int], dilations: list[int], extra: list[int]
) -> list[tuple[int, int]]:
    """What is cut off the full result before and after, on every axis."""
    mode, n = op.attribute("auto_pad", "NOTSET"), len(kernel)
    wanted = op.attribute("output_shape")
    if wanted is None and mode in ("NOTSET", "VALID"):
        return pairs(op.attribute("pads", [0] * (2 * n)))
    wanted = wanted[-n:] if wanted else [s * t for s, t in zip(op.shape(x)[2:], strides, strict=True)]
    amounts = []
    for axis in range(n):
        size = op.shape(x)[2 + axis]
        total = (size - 1) * strides[axis] + extra[axis] + dilations[axis] * (kernel[axis] - 1) + 1 - wanted[axis]
        if isinstance(total, Size):
            raise NeedsConstant("ConvTranspose to a given size from a dynamic one; fix that size")
        small = total // 2
        amounts.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return amounts


def deform_conv(op: Op, x: Operand, weight: Operand, offset: Operand, bias: Any = None, mask: Any = None) -> Any:
    """Every tap of the kernel reads the input at a place of its own, between pixels bilinearly, outside zero."""
    _, channels, height, width = op.shape(x)
    outputs, inner, kh, kw = (int(s) for s in op.shape(weight))
    (sh, sw), (dh, dw) = op.attribute("strides", [1, 1]), op.attribute("dilations", [1, 1])
    (top, _), (left, _) = pairs(op.attribute("pads", [0] * 4))
    groups, groups_offset = op.attribute("group", 1), op.attribute("offset_group", 1)
    n, _, oh, ow = op.shape(offset)
    offset = op.call(aten.reshape.default, offset, [n, groups_offset, kh * kw, 2, oh, ow])
    rows = torch.arange(oh)[None, :, None] * sh - top + (torch.arange(kh * kw) // kw)[:, None, None] * dh
    columns = torch.arange(ow)[None, None, :] * sw - left + (torch.arange(kh * kw) % kw)[:, None, None] * dw
    places = []
    for i, (base, size) in enumerate(((rows, height), (columns, width))):
        moved = op.call(aten.add.Tensor, op.call(aten.select.int, offset, 3, i), op.constant(base.to(offset.dtype)))
        scaled = op.call(aten.mul.Tensor, op.call(aten.add.Tensor, moved, 0.5), 2.0 / size)
        places.append(op.call(aten.sub.Tensor, scaled, 1.0))
    grid = op.call(aten.stack.default, places[::-1], -1)
    grid = op.call(aten.reshape.default, grid, [n * groups_offset, kh * kw * oh, ow, 2])
    image = op.call(aten.reshape.default, x, [n * groups_offset, channels // groups_offset, height, width])
    read = op.call(aten.grid_sampler.default, image, grid, 0, 0, False)
    read = op.call(aten.reshape.default, read, [n, groups_offset, channels // groups_offset, kh * kw, oh, ow])
    if mask is not None:
        mask = op.call(aten.reshape.default, mask, [n, groups_offset, 1, kh * kw, oh, ow])
        read = op.call(aten.mul.Tensor, read, mask)
    read = op.call(aten.reshape.default, read, [n, groups, inner * kh * kw, oh * ow])
    rows_of = [groups, outputs // groups, -1]
    if isinstance(weight, Constant):
        flat = op.trace.derived(op.parameter(weight), "rows", lambda t: t.reshape(rows_of))
    else:
        flat = op.call(aten.reshape.default, weight, rows_of)
    made = op.call(aten.reshape.default, op.call(aten.matmul.default, flat, read), [n, outputs, oh, ow])
    if bias is None:
        return made
    return op.call(aten.add.Tensor, made, op.call(aten.reshape.default, op.parameter(bias), [outputs, 1, 1]))


def causal_conv(op: Op, x: Operand, weight: Operand, bias: Any = None, past: Any = None) -> Any:
    """Each channel by itself, looking back only; the last inputs are the state."""
    channels, back = op.fixed(x, 1), op.fixed(weight, 2) - 1
    if past is None:
        whole = op.call(aten.constant_pad_nd.default, x, [back, 0], 0.0)
    else:
        whole = op.call(aten.cat.default, [past, x], 2)
    y = op.call(aten.conv1d.default, whole, op.parameter(weight), op.parameter(bias), [1], [0], [1], channels)
    y = y if op.attribute("activation", "none") == "none" else op.call(aten.silu.default, y)
    length = op.shape(whole)[2]
    return y, op.call(aten.slice.Tensor, whole, 2, length - back, length)


RULES: dict[str, Rule] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "DeformConv": deform_conv, "CausalConvWithState": causal_conv,
}  # fmt: skip

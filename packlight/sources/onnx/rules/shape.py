"""Operators that give elements other places, and those that make, look at and change shapes and types."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.dtypes import NARROW, read_tensor, torch_dtype
from packlight.sources.onnx.op import NeedsConstant, Op, Rule, axis_of, pairs
from packlight.sources.onnx.values import Constant, Operand, Size, Sizes, known

aten = torch.ops.aten
_CPU = torch.device("cpu")
_TRANSPOSED = {1: aten.conv_transpose1d.default, 3: aten.conv_transpose3d.input}
_END = 2**31 - 1
_EIGHT_BITS = frozenset({
    torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
})  # fmt: skip


def reshape(op: Op, x: Operand, shape: Any = None) -> Any:
    wanted = op.option("shape", shape, [])
    if not op.attribute("allowzero", 0) and any(not isinstance(s, Size) and s == 0 for s in wanted):
        own = op.shape(x)
        wanted = [own[i] if not isinstance(s, Size) and s == 0 else s for i, s in enumerate(wanted)]
    return op.call(aten.reshape.default, x, wanted)


def flatten(op: Op, x: Operand) -> Any:
    axis = op.attribute("axis", 1)
    axis += x.rank if axis < 0 else 0
    if axis == 1 and x.rank >= 2:
        return op.call(aten.flatten.using_ints, x, 1)
    shape = op.shape(x)
    return op.call(aten.reshape.default, x, [math.prod(shape[:axis]), math.prod(shape[axis:])])


def transpose(op: Op, x: Operand) -> Any:
    order = op.attribute("perm") or list(range(x.rank))[::-1]
    if order == list(range(x.rank)):
        return x
    if isinstance(x, Constant):
        return op.trace.derived(x, f"permuted {order}", lambda t: t.permute(order).contiguous())
    return op.call(aten.permute.default, x, order)


def squeeze(op: Op, x: Operand, axes: Any = None) -> Any:
    chosen = op.option("axes", axes)
    if chosen is None:
        chosen = [i for i, s in enumerate(op.shape(x)) if not isinstance(s, Size) and s == 1]
    if not chosen:
        return x
    chosen = [axis_of(a, x.rank) for a in chosen]
    if any(op.fixed(x, a) != 1 for a in chosen):
        raise PacklightError(f"Squeeze of axes {chosen} of a tensor {op.shape(x)}")
    return op.call(aten.squeeze.dims, x, chosen)


def unsqueeze(op: Op, x: Operand, axes: Any = None) -> Any:
    chosen = op.option("axes", axes, [])
    for axis in sorted(axis_of(a, x.rank + len(chosen)) for a in chosen):
        x = op.call(aten.unsqueeze.default, x, axis)
    return x


def expand(op: Op, x: Operand, shape: Any) -> Any:
    wanted, own = op.numbers(shape, "shape") or [], op.shape(x)
    rank = max(len(wanted), len(own))
    wanted, own = [1] * (rank - len(wanted)) + wanted, [1] * (rank - len(own)) + own
    sizes = [o if not isinstance(w, Size) and w == 1 else w for w, o in zip(wanted, own, strict=True)]
    return op.call(aten.expand.default, x, sizes)


def concat(op: Op, *inputs: Operand) -> Any:
    inputs = tuple(x for x in inputs if not (isinstance(x, Constant) and x.tensor.shape == (0,) and len(inputs) > 1))
    return op.call(aten.cat.default, list(inputs), op.attribute("axis", 1))


def split(op: Op, x: Operand, sizes: Any = None) -> Any:
    axis = axis_of(op.attribute("axis", 0), x.rank)
    parts = op.option("split", sizes)
    if parts is None:
        whole, count = op.fixed(x, axis), op.attribute("num_outputs") or op.outputs
        size = -(-whole // count)
        parts = [min(size, max(whole - i * size, 0)) for i in range(count)]
    if len(parts) == 1:
        return [x]
    return op.call(aten.split_with_sizes.default, x, parts, axis)


def slice_(op: Op, x: Operand, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    first, last = op.option("starts", starts, []), op.option("ends", ends, [])
    chosen = op.option("axes", axes) or list(range(len(first)))
    strides = op.option("steps", steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, chosen, strides, strict=True):
        axis = axis_of(axis, x.rank)
        x = _slice(op, x, start, end, axis, step) if step > 0 else _reversed(op, x, start, end, axis, step)
    return x


def _slice(op: Op, x: Operand, start: Any, end: Any, axis: int, step: int) -> Any:
    everything = not isinstance(start, Size) and start == 0 and not isinstance(end, Size) and end >= _END
    if everything and step == 1:
        return x
    end = 2**63 - 1 if not isinstance(end, Size) and end >= _END else end
    start = max(start, -_END) if not isinstance(start, Size) else start
    return op.call(aten.slice.Tensor, x, axis, start, end, step)


def _reversed(op: Op, x: Operand, start: Any, end: Any, axis: int, step: int) -> Any:
    """Backwards: the elements from start down to end, which is left out, are flipped and taken forwards."""
    size = op.shape(x)[axis]
    turned = op.call(aten.flip.default, x, [axis])
    if start == -1 or (not isinstance(start, Size) and start >= _END):
        first: Any = 0
    else:
        size = op.fixed(x, axis)
        first = size - 1 - min(start + size if start < 0 else start, size - 1)
    if not isinstance(end, Size) and end <= -_END:
        last: Any = 2**63 - 1
    else:
        size = op.fixed(x, axis)
        last = size - 1 - max(end + size if end < 0 else end, -1)
    whole = not isinstance(first, Size) and first == 0 and last == 2**63 - 1 and step == -1
    return turned if whole else op.call(aten.slice.Tensor, turned, axis, first, last, -step)


def tile(op: Op, x: Operand, repeats: Any) -> Any:
    return op.call(aten.repeat.default, x, op.numbers(repeats, "repeats"))


def shape_of(op: Op, x: Operand) -> Any:
    sizes = op.shape(x)
    return known(sizes[slice(op.attribute("start", 0), op.attribute("end"))])


def size_of(op: Op, x: Operand) -> Any:
    return known(math.prod(op.shape(x)))


def pad(op: Op, x: Operand, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    """Amounts below zero cut."""
    given = op.attribute("paddings") or op.option("pads", pads, [])
    chosen = op.numbers(axes, "axes") or list(range(len(given) // 2))
    amounts = [(0, 0)] * x.rank
    for axis, pair in zip(chosen, pairs(given), strict=True):
        amounts[axis_of(axis, x.rank)] = pair
    mode = op.attribute("mode", "constant")
    if mode != "constant":
        return _mirrored(op, x, amounts, mode)
    fill = op.attribute("value", 0.0) if value is None else op.number(value, "value", 0.0)
    flat = [p for pair in reversed(amounts) for p in pair]
    while len(flat) > 2 and not any(isinstance(p, Size) or p for p in flat[-2:]):
        flat = flat[:-2]
    if x.dtype == torch.bool:
        return op.cast(op.call(aten.constant_pad_nd.default, op.cast(x, torch.uint8), flat, int(fill)), torch.bool)
    return op.call(aten.constant_pad_nd.default, x, flat, fill)


def _mirrored(op: Op, x: Operand, amounts: list[tuple[Any, Any]], mode: str) -> Any:
    """By indices, one axis after the other: torch's own pads take two or three spatial axes only."""
    for axis, (before, after) in enumerate(amounts):
        if not (isinstance(before, Size) or isinstance(after, Size) or before or after):
            continue
        places = _places(op.fixed(x, axis), before, after, mode)
        x = op.call(aten.index_select.default, x, axis, op.constant(places, torch.int64))
    return x


def _places(size: int, before: int, after: int, mode: str) -> list[int]:
    wanted = range(-before, size + after)
    if mode == "edge":
        return [min(max(i, 0), size - 1) for i in wanted]
    if mode == "wrap":
        return [i % size for i in wanted]
    period = max(2 * (size - 1), 1)
    return [min(i % period, period - i % period) if size > 1 else 0 for i in wanted]


def constant(op: Op) -> Any:
    """A Constant node. Its floats weigh where an operator takes them for weights."""
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        found = op.attribute(name)
        if found is not None:
            return op.constant(found, torch.float32 if "float" in name else torch.int64)
    found = op.attribute("value")
    if found is None:
        raise PacklightError("a Constant of text or of sparse values; packlight takes dense numbers")
    return Constant(read_tensor(found))


def constant_of_shape(op: Op, shape: Any) -> Any:
    found = op.attribute("value")
    fill = read_tensor(found) if found is not None else torch.zeros(1)
    sizes = op.numbers(shape, "shape")
    return op.call(aten.full.default, sizes, fill.reshape(-1)[0].item(), dtype=fill.dtype, device=_CPU)


def range_(op: Op, start: Any, limit: Any, delta: Any) -> Any:
    first, last, step = (op.number(v, "limits") for v in (start, limit, delta))
    dtype = next(v.dtype for v in (start, limit, delta))
    return op.call(aten.arange.start_step, first, last, step, dtype=dtype, device=_CPU)


def eye_like(op: Op, x: Operand) -> Any:
    rows, columns = op.shape(x)
    dtype, k = op.dtype("dtype", x.dtype), op.attribute("k", 0)
    down = op.call(aten.arange.default, rows, dtype=torch.int64, device=_CPU)
    across = op.call(aten.arange.default, columns, dtype=torch.int64, device=_CPU)
    shifted = op.call(aten.add.Tensor, op.call(aten.unsqueeze.default, down, 1), k)
    return op.cast(op.call(aten.eq.Tensor, shifted, op.call(aten.unsqueeze.default, across, 0)), dtype)


def trilu(op: Op, x: Operand, k: Any = None) -> Any:
    target = aten.triu.default if op.attribute("upper", 1) else aten.tril.default
    return op.call(target, x, op.number(k, "diagonal", 0))


def depth_to_space(op: Op, x: Operand) -> Any:
    block = op.attribute("blocksize")
    if op.attribute("mode", "DCR") == "CRD":
        return op.call(aten.pixel_shuffle.default, x, block)
    n, c, h, w = op.shape(x)
    parts = op.call(aten.reshape.default, x, [n, block, block, c // (block * block), h, w])
    turned = op.call(aten.permute.default, parts, [0, 3, 4, 1, 5, 2])
    return op.call(aten.reshape.default, turned, [n, c // (block * block), h * block, w * block])


def space_to_depth(op: Op, x: Operand) -> Any:
    block = op.attribute("blocksize")
    if op.attribute("mode", "DCR") == "CRD":
        return op.call(aten.pixel_unshuffle.default, x, block)
    n, c, h, w = op.shape(x)
    parts = op.call(aten.reshape.default, x, [n, c, h // block, block, w // block, block])
    turned = op.call(aten.permute.default, parts, [0, 3, 5, 1, 2, 4])
    return op.call(aten.reshape.default, turned, [n, c * block * block, h // block, w // block])


def cast(op: Op, x: Operand) -> Any:
    code = int(op.attribute("to"))
    if code == 24 and op.attribute("round_mode", "up") != "nearest":
        return _power_of_two(op, x, up=op.attribute("round_mode", "up") == "up")
    return cast_to(op, x, code, saturate=bool(op.attribute("saturate", 1)))


def _power_of_two(op: Op, x: Operand, *, up: bool) -> Any:
    """float8_e8m0: the exponent alone, of the next power of two up or down."""
    bits = op.call(aten.view.dtype, op.cast(x, torch.float32), torch.int32)
    bits = op.call(aten.add.Tensor, bits, (1 << 23) - 1) if up else bits
    exponent = op.cast(op.call(aten.bitwise_right_shift.Tensor_Scalar, bits, 23), torch.uint8)
    return op.call(aten.view.dtype, exponent, torch.float8_e8m0fnu)


def cast_like(op: Op, x: Operand, like: Any) -> Any:
    target = op.node.inputs[1].dtype if op.node.inputs[1] is not None else None
    if target is not None:
        return cast_to(op, x, int(target), saturate=bool(op.attribute("saturate", 1)))
    return op.cast(x, like.dtype)


def cast_to(op: Op, x: Operand, code: int, *, saturate: bool = True) -> Any:
    """To the type of an ONNX number; float8 saturates unless told otherwise, narrow integers keep their low bits."""
    dtype = torch_dtype(code)
    if isinstance(x, Sizes):
        return _cast_sizes(op, x, dtype)
    if code in NARROW:
        return _narrowed(op, x, *NARROW[code])
    if code == 23:
        return _float4(op, x)
    if code in (17, 18) and not saturate:
        most = op.call(aten.abs.default, op.cast(x, torch.float32))
        beyond = op.call(aten.gt.Scalar, most, torch.finfo(dtype).max * (1 + 1 / 28))
        return op.cast(op.call(aten.masked_fill.Scalar, op.cast(x, torch.float32), beyond, math.nan), dtype)
    if dtype in _EIGHT_BITS and saturate and x.dtype not in _EIGHT_BITS and dtype != torch.float8_e8m0fnu:
        most = torch.finfo(dtype).max
        x = op.call(aten.clamp.default, op.cast(x, torch.float32), -most, most)
    return op.cast(x, dtype)


def _cast_sizes(op: Op, x: Sizes, dtype: torch.dtype) -> Any:
    if dtype.is_floating_point:
        return Sizes(x.array, dtype)
    truncated = [
        op.trace.arithmetic(math.trunc, v) if isinstance(v, Size) and x.dtype.is_floating_point else v
        for v in x.array.flat
    ]
    return known(_like(x.array, truncated), dtype)


def _like(array: Any, flat: list[Any]) -> Any:
    made = array.copy()
    made.flat = flat
    return made


def _narrowed(op: Op, x: Operand, low: int, high: int) -> Any:
    """To 4 or 2 bits, held in a byte: floats are rounded to nothing and both wrap around."""
    whole = op.cast(x, torch.int32)
    bits = op.call(aten.bitwise_and.Scalar, whole, high - low)
    if low < 0:
        above = op.call(aten.gt.Scalar, bits, high)
        bits = op.call(aten.where.self, above, op.call(aten.sub.Tensor, bits, high - low + 1), bits)
    return op.cast(bits, torch.int8 if low < 0 else torch.uint8)


_FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _float4(op: Op, x: Operand) -> Any:
    """To the nearest of ±{0, 0.5, 1, 1.5, 2, 3, 4, 6}, held in float32; ties go to the even mantissa."""
    x = op.cast(x, torch.float32)
    size = op.call(aten.abs.default, x)
    made = op.call(aten.zeros_like.default, x)
    for i, (low, high) in enumerate(pairwise(_FLOAT4)):
        reached = op.call(aten.gt.Scalar if i % 2 == 0 else aten.ge.Scalar, size, (low + high) / 2)
        step = op.call(aten.mul.Tensor, op.cast(reached, torch.float32), high - low)
        made = op.call(aten.add.Tensor, made, step)
    return op.call(aten.copysign.Tensor, made, x)


def bit_cast(op: Op, x: Operand) -> Any:
    return op.call(aten.view.dtype, x, torch_dtype(int(op.attribute("to"))))


def col2im(op: Op, x: Operand, image: Any, block: Any) -> Any:
    size, kernel = op.numbers(image, "image_shape") or [], op.numbers(block, "block_shape") or []
    if len(size) != 2:
        return _overlapped(op, x, size, kernel)
    strides, dilations = op.attribute("strides", [1, 1]), op.attribute("dilations", [1, 1])
    amounts = pairs(op.attribute("pads", [0] * 4))
    whole = [s + b + e for s, (b, e) in zip(size, amounts, strict=True)]
    made = op.call(aten.col2im.default, x, whole, kernel, dilations, [0, 0], strides)
    for axis, (s, (b, _)) in enumerate(zip(size, amounts, strict=True), 2):
        made = op.call(aten.slice.Tensor, made, axis, b, b + s)
    return made


def _overlapped(op: Op, x: Operand, size: list[int], kernel: list[int]) -> Any:
    """Blocks put where they were taken and added up, which is a transposed convolution with one tap a channel."""
    n, taps = len(size), math.prod(kernel)
    if n not in _TRANSPOSED:
        raise NeedsConstant(f"Col2Im of {n} axes; packlight takes one to three")
    strides, dilations = op.attribute("strides", [1] * n), op.attribute("dilations", [1] * n)
    amounts = pairs(op.attribute("pads", [0] * (2 * n)))
    blocks = [(s + b + e - d * (k - 1) - 1) // t + 1
              for s, (b, e), d, k, t in zip(size, amounts, dilations, kernel, strides, strict=True)]  # fmt: skip
    batch, rows = op.shape(x)[0], op.fixed(x, 1)
    parts = op.call(aten.reshape.default, x, [batch * (rows // taps), taps, *blocks])
    one_each = op.constant(torch.eye(taps).reshape(taps, 1, *kernel))
    made = op.call(_TRANSPOSED[n], parts, one_each, None, strides, [0] * n, [0] * n, 1, dilations)
    for axis, (s, (b, _)) in enumerate(zip(size, amounts, strict=True), 2):
        made = op.call(aten.slice.Tensor, made, axis, b, b + s)
    return op.call(aten.reshape.default, made, [batch, rows // taps, *size])


def center_crop_pad(op: Op, x: Operand, shape: Any) -> Any:
    wanted = op.numbers(shape, "shape") or []
    axes = [axis_of(a, x.rank) for a in op.attribute("axes") or range(x.rank)]
    for axis, size in zip(axes, wanted, strict=True):
        own = op.fixed(x, axis)
        if own > size:
            start = (own - size) // 2
            x = op.call(aten.slice.Tensor, x, axis, start, start + size)
        elif own < size:
            flat = [0] * (2 * (x.rank - axis))
            flat[-2], flat[-1] = (size - own) // 2, size - own - (size - own) // 2
            x = op.call(aten.constant_pad_nd.default, x, flat, 0)
    return x


def reverse_sequence(op: Op, x: Operand, lengths: Operand) -> Any:
    """Of every sequence, the first `length` steps are turned around."""
    batch, time = op.attribute("batch_axis", 1), op.attribute("time_axis", 0)
    steps = op.shape(x)[time]
    place = op.call(aten.arange.default, steps, dtype=torch.int64, device=_CPU)
    place = op.call(aten.unsqueeze.default, place, 1 - time if {batch, time} == {0, 1} else 0)
    length = op.call(aten.unsqueeze.default, op.cast(lengths, torch.int64), 1 - batch)
    turned = op.call(aten.sub.Tensor, op.call(aten.sub.Tensor, length, place), 1)
    index = op.call(aten.where.self, op.call(aten.ge.Scalar, turned, 0), turned, place)
    for _ in range(x.rank - 2):
        index = op.call(aten.unsqueeze.default, index, -1)
    index = op.call(aten.expand.default, index, op.shape(x))
    return op.call(aten.gather.default, x, time, index)


RULES: dict[str, Rule] = {
    "Reshape": reshape, "Flatten": flatten, "Transpose": transpose, "Squeeze": squeeze, "Unsqueeze": unsqueeze,
    "Expand": expand, "Concat": concat, "Split": split, "Slice": slice_, "Tile": tile, "Shape": shape_of,
    "Size": size_of, "Pad": pad, "Constant": constant, "ConstantOfShape": constant_of_shape, "Range": range_,
    "EyeLike": eye_like, "Trilu": trilu, "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "Cast": cast,
    "CastLike": cast_like, "BitCast": bit_cast, "Col2Im": col2im, "CenterCropPad": center_crop_pad,
    "ReverseSequence": reverse_sequence,
}  # fmt: skip

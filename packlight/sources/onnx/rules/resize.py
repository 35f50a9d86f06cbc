"""Resize and Upsample, and reading images at given places.

torch's own operators are used where they have the file's form: nearest and linear with half-pixel, asymmetric or
align-corners coordinates at fixed scales. Every other form is a matrix an axis, whose rows are the weights with which
the input's pixels make one of the output's (ONNX's specification of Resize).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.sources.onnx.op import NeedsConstant, Op, Rule, axis_of
from packlight.sources.onnx.values import Operand, Size

aten = torch.ops.aten
_NEAREST = {1: aten.upsample_nearest1d, 2: aten.upsample_nearest2d, 3: aten.upsample_nearest3d}
_LINEAR = {1: aten.upsample_linear1d, 2: aten.upsample_bilinear2d, 3: aten.upsample_trilinear3d}


def resize(op: Op, x: Operand, *given: Any) -> Any:
    """given: (scales) until operator set 10, (roi, scales, sizes) from 11 on."""
    roi, scales, sizes = (*given, None, None, None)[:3] if op.version >= 11 else (None, *given, None)[:3]
    scales = op.attribute("scales") if op.attribute("scales") is not None else op.numbers(scales, "scales")
    axes = [axis_of(a, x.rank) for a in op.attribute("axes") or range(x.rank)]
    own = [op.shape(x)[a] for a in axes]
    wanted = op.numbers(sizes, "sizes")
    if wanted:
        scales, wanted = _fitted(op, own, wanted)
    else:
        wanted = [_scaled(op, o, s) for o, s in zip(own, scales or [], strict=True)]
    region = op.numbers(roi, "roi") if _coordinates(op) == "tf_crop_and_resize" else None
    quick = _by_torch(op, x, axes, own, wanted, scales)
    if quick is not None:
        return quick
    outside: list[Tensor] = []
    for i, axis in enumerate(axes):
        ends = (region[i], region[i + len(axes)]) if region else None
        if ends is not None or scales[i] != 1 or (isinstance(own[i], Size) is False and own[i] != wanted[i]):
            if isinstance(own[i], Size) or isinstance(wanted[i], Size):
                raise NeedsConstant(f"{op.kind} in a form that torch lacks, of a dynamic size; fix that size")
            matrix = _matrix(op, own[i], wanted[i], scales[i], ends)
            x = _by_matrix(op, x, axis, matrix)
            outside.append((matrix == 0).all(1).reshape([-1, *[1] * (x.rank - 1 - axis)]))
    fill = op.attribute("extrapolation_value", 0.0)
    for rows in outside if region and fill else ():
        x = op.call(aten.masked_fill.Scalar, x, op.constant(rows), fill)
    return x


def _coordinates(op: Op) -> str:
    if op.version < 11:
        return "asymmetric"
    return str(op.attribute("coordinate_transformation_mode", "half_pixel"))


def _fitted(op: Op, own: list[Any], wanted: list[Any]) -> tuple[list[Any], list[Any]]:
    """Scales and sizes, where sizes are given: kept in proportion where told so."""
    scales = [w / o for w, o in zip(wanted, own, strict=True)]
    policy = op.attribute("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return scales, wanted
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(own), [math.floor(o * scale + 0.5) for o in own]


def _scaled(op: Op, own: Any, scale: float) -> Any:
    if isinstance(own, Size):
        if scale == int(scale):
            return own * int(scale)
        return op.trace.arithmetic(math.floor, own * scale)
    return math.floor(own * scale + 1e-6)


def _by_torch(op: Op, x: Operand, axes: list[int], own: list[Any], wanted: list[Any], scales: list[Any]) -> Any:
    """None where torch has no such operator."""
    moved = [i for i, (o, w) in enumerate(zip(own, wanted, strict=True)) if o is not w and scales[i] != 1]
    n = x.rank - 2
    if n not in _NEAREST or not x.dtype.is_floating_point or any(axes[i] < 2 for i in moved):
        return None
    where = dict(zip(axes, zip(wanted, scales, strict=True), strict=True))
    spatial = [where.get(a, (op.shape(x)[a], 1)) for a in range(2, x.rank)]
    targets, factors = [w for w, _ in spatial], [s for _, s in spatial]
    mode, place = op.attribute("mode", "nearest"), _coordinates(op)
    whole = all(not isinstance(s, Size) and s == int(s) and s >= 1 for s in factors)
    if op.attribute("antialias", 0):
        return None
    if mode == "nearest":
        rounding = op.attribute("nearest_mode", "floor" if op.version < 11 else "")
        asymmetric = place == "asymmetric" and rounding == "floor"
        centred = place == "half_pixel" and op.attribute("nearest_mode", "round_prefer_floor") == "round_prefer_floor"
        return op.call(_NEAREST[n].default, x, targets) if whole and (asymmetric or centred) else None
    if mode != "linear" or place not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return None
    exact = all(
        not isinstance(t, Size) and not isinstance(o, Size) and abs(t / o - s) < 1e-7
        for t, o, s in zip(targets, op.shape(x)[2:], factors, strict=True)
    )
    fits = whole or (exact and min(targets) > 1)
    return op.call(_LINEAR[n].default, x, targets, place == "align_corners") if fits else None


def _by_matrix(op: Op, x: Operand, axis: int, matrix: Tensor) -> Any:
    """One axis, as the last: x · matrixᵀ."""
    dtype = x.dtype
    x = op.cast(x, torch.float32) if not dtype.is_floating_point else x
    moved = op.call(aten.movedim.int, x, axis, -1) if axis != x.rank - 1 else x
    made = op.call(aten.matmul.default, moved, op.constant(matrix.t().to(x.dtype).contiguous()))
    made = op.call(aten.movedim.int, made, -1, axis) if axis != x.rank - 1 else made
    return op.cast(made, dtype)


def _matrix(op: Op, own: int, wanted: int, scale: float, ends: tuple[float, float] | None) -> Tensor:
    """[wanted, own], float64: the weights of the input's pixels."""
    mode = op.attribute("mode", "nearest")
    matrix = torch.zeros(wanted, own, dtype=torch.float64)
    for i in range(wanted):
        place = _place(op, i, own, wanted, scale, ends)
        if ends is not None and not 0 <= place <= own - 1:
            continue
        for j, weight in _NEIGHBOURS["cubic" if mode == "cubic" else "linear" if mode == "linear" else "nearest"](
            op, place, own, scale
        ):
            matrix[i, min(max(j, 0), own - 1)] += weight
    return matrix


def _place(op: Op, i: int, own: int, wanted: int, scale: float, ends: tuple[float, float] | None) -> float:
    """Where the centre of an output pixel lies in the input."""
    match _coordinates(op):
        case "half_pixel":
            return (i + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            adjustment = wanted / (scale * own)
            return own / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (i + 0.5) / scale - 0.5 if wanted > 1 else 0.0
        case "align_corners":
            length = scale * own
            return i * (own - 1) / (length - 1) if length > 1 else 0.0
        case "asymmetric":
            return i / scale
        case "tf_crop_and_resize":
            start, end = ends or (0.0, 1.0)
            if wanted == 1:
                return 0.5 * (start + end) * (own - 1)
            return start * (own - 1) + i * (end - start) * (own - 1) / (wanted - 1)
        case "tf_half_pixel_for_nn":
            return (i + 0.5) / scale
    raise PacklightError(f"Resize with coordinates {_coordinates(op)!r}")


def _nearest(op: Op, place: float, own: int, scale: float) -> list[tuple[int, float]]:
    rounding = op.attribute("nearest_mode", "round_prefer_floor") if op.version >= 11 else "floor"
    match rounding:
        case "floor":
            return [(math.floor(place + 1e-9), 1.0)]
        case "ceil":
            return [(math.ceil(place - 1e-9), 1.0)]
        case "round_prefer_ceil":
            return [(math.floor(place + 0.5), 1.0)]
    return [(math.ceil(place - 0.5), 1.0)]


def _linear(op: Op, place: float, own: int, scale: float) -> list[tuple[int, float]]:
    return _weighed(op, place, own, scale, 1, lambda t: max(1 - t, 0.0))


def _cubic(op: Op, place: float, own: int, scale: float) -> list[tuple[int, float]]:
    a = op.attribute("cubic_coeff_a", -0.75)

    def kernel(t: float) -> float:
        if t <= 1:
            return float((a + 2) * t**3 - (a + 3) * t**2 + 1)
        return float(a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a) if t < 2 else 0.0

    return _weighed(op, place, own, scale, 2, kernel)


def _weighed(op: Op, place: float, own: int, scale: float, radius: int, kernel: Any) -> list[tuple[int, float]]:
    """Neighbours within the kernel's radius, which antialias widens where the image shrinks; weights sum to one."""
    stretch = min(scale, 1.0) if op.attribute("antialias", 0) else 1.0
    first = math.floor(place - radius / stretch) + (0 if stretch < 1 else 1)
    last = math.ceil(place + radius / stretch) if stretch < 1 else first + 2 * radius - 1
    found = [(j, kernel(abs(j - place) * stretch)) for j in range(first, last + 1)]
    if op.attribute("exclude_outside", 0):
        found = [(j, w) for j, w in found if 0 <= j < own]
    total = sum(w for _, w in found)
    return [(j, w / total) for j, w in found]


_NEIGHBOURS: dict[str, Any] = {"nearest": _nearest, "linear": _linear, "cubic": _cubic}


def grid_sample(op: Op, x: Operand, grid: Operand) -> Any:
    modes = {"linear": 0, "bilinear": 0, "nearest": 1, "cubic": 2, "bicubic": 2}
    padding = {"zeros": 0, "border": 1, "reflection": 2}
    mode, outside = modes[op.attribute("mode", "linear")], padding[op.attribute("padding_mode", "zeros")]
    return op.call(aten.grid_sampler.default, x, grid, mode, outside, bool(op.attribute("align_corners", 0)))


def affine_grid(op: Op, theta: Operand, size: Any) -> Any:
    wanted = op.numbers(size, "size")
    return op.call(aten.affine_grid_generator.default, theta, wanted, bool(op.attribute("align_corners", 0)))


def roi_align(op: Op, x: Operand, rois: Operand, images: Operand) -> Any:
    """Every region is read at a grid of points, between pixels bilinearly; the points of a bin are averaged."""
    height, width = op.attribute("output_height", 1), op.attribute("output_width", 1)
    ratio, mode = op.attribute("sampling_ratio", 0), op.attribute("mode", "avg")
    if not ratio:
        raise NeedsConstant("RoiAlign whose number of points follows from the size of each region (sampling_ratio=0)")
    if mode != "avg":
        raise PacklightError("RoiAlign with mode=max; packlight takes avg")
    aligned = op.version >= 16 and op.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    half = 0.5 if aligned else 0.0
    scaled = op.call(aten.mul.Tensor, rois, op.attribute("spatial_scale", 1.0))
    scaled = op.call(aten.sub.Tensor, scaled, half) if half else scaled
    x1, y1, x2, y2 = (op.call(aten.unsqueeze.default, op.call(aten.select.int, scaled, 1, i), 1) for i in range(4))
    rows = _points(op, y1, y2, height, ratio, aligned=bool(half))
    columns = _points(op, x1, x2, width, ratio, aligned=bool(half))
    picked = op.call(aten.index_select.default, x, 0, op.cast(images, torch.int64))
    by_row, by_column = (_weights(op, p, op.shape(x)[2 + i]) for i, p in enumerate((rows, columns)))
    read = op.call(aten.einsum.default, "rchw,rph,rqw->rcpq", [picked, by_row, by_column])
    shape = op.shape(read)
    parts = op.call(aten.reshape.default, read, [*shape[:2], height, ratio, width, ratio])
    return op.call(aten.mean.dim, parts, [3, 5])


def _points(op: Op, low: Any, high: Any, bins: int, ratio: int, *, aligned: bool) -> Any:
    """[regions, bins · ratio] places along one axis."""
    size = op.call(aten.sub.Tensor, high, low)
    size = size if aligned else op.call(aten.clamp.default, size, 1.0)
    steps = (torch.arange(bins * ratio, dtype=torch.float32) + 0.5) / (bins * ratio)
    return op.call(aten.add.Tensor, low, op.call(aten.mul.Tensor, size, op.constant(steps)))


def _weights(op: Op, places: Any, size: Any) -> Any:
    """[regions, points, pixels]: what each pixel counts at each point; points more than a pixel outside read zero."""
    inside = op.call(aten.logical_and.default, op.call(aten.ge.Scalar, places, -1.0),
                     op.call(aten.le.Scalar, places, size))  # fmt: skip
    clipped = op.call(aten.clamp.default, places, 0.0, size - 1)
    pixels = op.call(aten.arange.default, size, dtype=torch.float32, device=torch.device("cpu"))
    away = op.call(aten.abs.default, op.call(aten.sub.Tensor, op.call(aten.unsqueeze.default, clipped, -1), pixels))
    near = op.call(aten.relu.default, op.call(aten.rsub.Scalar, away, 1.0))
    return op.call(aten.mul.Tensor, near, op.cast(op.call(aten.unsqueeze.default, inside, -1), torch.float32))


RULES: dict[str, Rule] = {
    "Resize": resize, "Upsample": resize, "GridSample": grid_sample, "AffineGrid": affine_grid, "RoiAlign": roi_align,
}  # fmt: skip

"""Signals, losses and random numbers."""

from __future__ import annotations

import math
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.op import Op, Rule, axis_of
from packlight.sources.onnx.values import Constant, Operand, Value

aten = torch.ops.aten
_CPU = torch.device("cpu")


def dft(op: Op, x: Operand, length: Any = None, axis: Any = None) -> Any:
    """Along an axis of [batch, …, 1 or 2 (real, imaginary)], by torch's FFT."""
    along = op.attribute("axis", 1) if op.version < 20 else int(op.number(axis, "axis", -2))
    along, inverse = axis_of(along, x.rank), bool(op.attribute("inverse", 0))
    onesided, count = bool(op.attribute("onesided", 0)), op.number(length, "length")
    if inverse and onesided:
        made = op.call(aten.fft_irfft.default, _complex(op, x), count, along)
        return op.call(aten.unsqueeze.default, made, -1)
    number = _complex(op, x) if op.fixed(x, x.rank - 1) == 2 else op.call(aten.squeeze.dims, x, [x.rank - 1])
    if onesided:
        made = op.call(aten.fft_rfft.default, number, count, along)
    else:
        made = op.call(aten.fft_ifft.default if inverse else aten.fft_fft.default, number, count, along)
    return op.call(aten.view_as_real.default, made)


def _complex(op: Op, x: Operand) -> Any:
    real, imaginary = (op.call(aten.select.int, x, x.rank - 1, i) for i in (0, 1))
    return op.call(aten.complex.default, real, imaginary)


def stft(op: Op, x: Operand, step: Any, window: Any = None, length: Any = None) -> Any:
    """Frames of the signal [batch, samples, 1], each times the window, through the FFT."""
    hop = int(op.number(step, "frame_step"))
    size = int(op.number(length, "frame_length")) if length is not None else op.fixed(window, 0)
    signal = op.call(aten.squeeze.dims, x, [x.rank - 1]) if x.rank == 3 and op.fixed(x, 2) == 1 else x
    frames = op.call(aten.unfold.default, signal, 1, size, hop)
    frames = frames if window is None else op.call(aten.mul.Tensor, frames, window)
    target = aten.fft_rfft.default if op.attribute("onesided", 1) else aten.fft_fft.default
    return op.call(aten.view_as_real.default, op.call(target, frames))


def window(*terms: float) -> Any:
    """Σ terms[k] · cos(2π k n / N)."""

    def rule(op: Op, size: Any) -> Any:
        count = int(op.number(size, "size"))
        whole = count if op.attribute("periodic", 1) else count - 1
        angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / max(whole, 1)
        made = sum(t * torch.cos(k * angle) for k, t in enumerate(terms))
        return Constant(torch.as_tensor(made).to(op.dtype("output_datatype", torch.float32)))

    return rule


def nll_loss(op: Op, scores: Operand, target: Operand, weight: Any = None) -> Any:
    """−weight[target] · scores[target], averaged (by weight), summed, or one an element."""
    ignored = op.attribute("ignore_index")
    target = op.cast(target, torch.int64)
    valid = op.call(aten.ones_like.default, target, dtype=torch.bool)
    if ignored is not None:
        valid = op.call(aten.ne.Scalar, target, ignored)
    place = op.call(aten.where.self, valid, target, op.call(aten.zeros_like.default, target))
    picked = op.call(aten.squeeze.dims, op.call(aten.gather.default, scores, 1,
                                                op.call(aten.unsqueeze.default, place, 1)), [1])  # fmt: skip
    share = op.cast(valid, scores.dtype)
    if weight is not None:
        flat = op.call(aten.index_select.default, weight, 0, op.call(aten.reshape.default, place, [-1]))
        share = op.call(aten.mul.Tensor, share, op.call(aten.reshape.default, flat, op.shape(target)))
    loss = op.call(aten.neg.default, op.call(aten.mul.Tensor, picked, share))
    how = op.attribute("reduction", "mean")
    if how == "none":
        return loss
    total = op.call(aten.sum.default, loss)
    return total if how == "sum" else op.call(aten.div.Tensor, total, op.call(aten.sum.default, share))


def cross_entropy(op: Op, scores: Operand, target: Operand, weight: Any = None) -> Any:
    logs = op.call(aten.log_softmax.int, scores, 1)
    return nll_loss(op, logs, target, weight), logs


def random_like(normal: bool) -> Any:
    """Drawn anew at every call; the file's seed means nothing elsewhere."""

    def rule(op: Op, x: Any = None) -> Any:
        dtype = op.dtype("dtype", x.dtype if x is not None else torch.float32)
        shape = op.shape(x) if x is not None else op.attribute("shape")
        target = aten.randn.default if normal else aten.rand.default
        drawn = op.trace.call_apart(target, shape, dtype=dtype, device=_CPU)
        if normal:
            scaled = op.call(aten.mul.Tensor, drawn, op.attribute("scale", 1.0))
            return op.call(aten.add.Tensor, scaled, op.attribute("mean", 0.0))
        low, high = op.attribute("low", 0.0), op.attribute("high", 1.0)
        return op.call(aten.add.Tensor, op.call(aten.mul.Tensor, drawn, high - low), low)

    return rule


def bernoulli(op: Op, x: Operand) -> Any:
    if not isinstance(x, Value):
        raise PacklightError("Bernoulli of a constant")
    drawn = op.call(aten.rand_like.default, x)
    return op.cast(op.call(aten.lt.Tensor, drawn, x), op.dtype("dtype", x.dtype))


def mel_weights(op: Op, bins: Any, length: Any, rate: Any, low: Any, high: Any) -> Any:
    """Triangles [frequencies, bins] whose corners lie evenly on the mel scale, 2595 · log10(1 + f / 700)."""
    count, size, samples = (int(op.number(v, "sizes")) for v in (bins, length, rate))
    ends = [2595 * math.log10(1 + float(op.number(v, "limits")) / 700) for v in (low, high)]
    mels = torch.arange(count + 2) * ((ends[1] - ends[0]) / (count + 2)) + ends[0]
    corners = ((size + 1) * (700 * (10 ** (mels.double() / 2595) - 1)) / samples).floor().long()
    made = torch.zeros(size // 2 + 1, count, dtype=torch.float64)
    for i in range(count):
        left, top, right = (int(c) for c in corners[i : i + 3])
        for j in range(left, top + 1):
            made[j, i] = 1.0 if top == left else (j - left) / (top - left)
        for j in range(top, right if right != top else top):
            made[j, i] = (right - j) / (right - top)
    return Constant(made.to(op.dtype("output_datatype", torch.float32)))


RULES: dict[str, Rule] = {
    "MelWeightMatrix": mel_weights,
    "DFT": dft, "STFT": stft, "HannWindow": window(0.5, -0.5), "HammingWindow": window(25 / 46, -21 / 46),
    "BlackmanWindow": window(0.42, -0.5, 0.08), "NegativeLogLikelihoodLoss": nll_loss,
    "SoftmaxCrossEntropyLoss": cross_entropy, "RandomNormal": random_like(True), "RandomUniform": random_like(False),
    "RandomNormalLike": random_like(True), "RandomUniformLike": random_like(False), "Bernoulli": bernoulli,
}  # fmt: skip

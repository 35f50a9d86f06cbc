"""Student networks by name and width: what a large network's knowledge is distilled into.

    student = students.make("resnet8", classes=10, input_shape=(1, 28, 28), width=0.5)
    student, width = students.smaller_than("ds_cnn", 4, (10_240,), params=20_000)

A width multiplies every layer's channels (Howard et al. 2017, arXiv 1704.04861, section 3.3); depth and input stay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from packlight import networks
from packlight.errors import PacklightError
from packlight.networks.widths import scaled

WIDEST = 64.0
_STEPS = 1000  # widths that `smaller_than` looks at, from one whole number to the next
_HEADS = 4

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Input:
    """What a network reads. least: name of a size of one example → the least that it can be."""

    kind: str
    least: dict[str, int]


@dataclass(frozen=True)
class _Student:
    """build: classes, input_shape, width → module."""

    reads: _Input
    build: Callable[[int, Shape, float], nn.Module]


_IMAGES = _Input("images", {"channels": 1, "height": 1, "width": 1})
_SPEECH = _Input("waveforms at 16 kHz", {"samples": 1024})  # one window of the features
_TEXT = _Input("token ids with a mask", {"tokens": 1})


def _sees(network: Callable[[int, int, float], nn.Module]) -> _Student:
    return _Student(_IMAGES, lambda classes, shape, width: network(shape[0], classes, width))


def _ds_cnn(classes: int, shape: Shape, width: float) -> nn.Module:
    return networks.ds_cnn(classes, scaled(64, width))


def _conformer(classes: int, shape: Shape, width: float) -> nn.Module:
    inner = scaled(96, width, multiple=_HEADS)
    return networks.conformer(classes, shape[0], inner, heads=_HEADS, stem=scaled(24, width))


def _transformer(classes: int, shape: Shape, width: float) -> nn.Module:
    return networks.transformer_classifier(classes, shape[0], scaled(64, width, multiple=_HEADS), heads=_HEADS)


def _lstm(classes: int, shape: Shape, width: float) -> nn.Module:
    return networks.lstm_classifier(classes, scaled(64, width), scaled(96, width))


_STUDENTS = {
    "squeezenet": _sees(networks.squeezenet),
    "mobilenet_v2": _sees(networks.mobilenet_v2_small),
    "efficientnet_lite": _sees(networks.efficientnet_lite),
    "resnet8": _sees(networks.resnet8),
    "resnet20": _sees(networks.resnet20),
    "ds_cnn": _Student(_SPEECH, _ds_cnn),
    "conformer": _Student(_SPEECH, _conformer),
    "transformer": _Student(_TEXT, _transformer),
    "lstm": _Student(_TEXT, _lstm),
}


def names() -> tuple[str, ...]:
    """The names that `make` knows."""
    return tuple(_STUDENTS)


def make(name: str, classes: int, input_shape: Sequence[int], width: float = 1.0, seed: int = 0) -> nn.Module:
    """A student with fresh weights, in train mode, on the CPU; torch's random state stays as it is.

    name: one of `names()`. classes: >= 2. input_shape: of one example, (channels, height, width) for images,
    (samples,) at 16 kHz for speech, (tokens,) for text, whose networks take token ids and a mask, int64 [n, tokens].
    width: times the channels, rounded, in (0, 64]. seed: >= 0, the same one gives the same weights.
    """
    shape = _checked(name, classes, input_shape)
    if not 0 < width <= WIDEST:
        raise PacklightError(f"a student's width is in (0, {WIDEST:g}], got {width}; 1 leaves the channels as they are")
    if not 0 <= seed < 2**63:
        raise PacklightError(f"a student's seed is a whole number >= 0 and < 2^63, got {seed}")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would move the accelerators' states as well
        return _STUDENTS[name].build(classes, shape, width)


def smaller_than(name: str, classes: int, input_shape: Sequence[int], params: int) -> tuple[nn.Module, float]:
    """The widest student of at most so many parameters, with weights from seed 0, and its width.

    Widths are whole thousandths up to 64, by bisection: the next thousandth would have more than `params` parameters.
    """
    shape = _checked(name, classes, input_shape)
    thousandths = range(1, round(WIDEST * _STEPS) + 1)
    fitting = bisect_right(thousandths, params, key=lambda t: _parameters(name, classes, shape, t / _STEPS))
    if not fitting:
        least = _parameters(name, classes, shape, thousandths[0] / _STEPS)
        raise PacklightError(
            f"{name} for {classes} classes has at least {least:,} parameters, {params:,} were allowed; "
            "allow more or choose another network"
        )
    width = thousandths[fitting - 1] / _STEPS
    return make(name, classes, shape, width), width


def _parameters(name: str, classes: int, shape: Shape, width: float) -> int:
    """Counted on a network without storage."""
    with torch.device("meta"):
        return sum(p.numel() for p in _STUDENTS[name].build(classes, shape, width).parameters())


def _checked(name: str, classes: int, input_shape: object) -> Shape:
    """input_shape as a tuple, once name, classes and shape are known to fit together."""
    if name not in _STUDENTS:
        raise PacklightError(f"no student {name!r}; choose one of {', '.join(_STUDENTS)}")
    if classes < 2:
        raise PacklightError(f"a student tells two or more classes apart, got classes={classes}")
    reads = _STUDENTS[name].reads
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else (input_shape,)
    if len(shape) != len(reads.least) or not all(map(_reaches, shape, reads.least.values())):
        wanted = ", ".join(f"{size} >= {least}" for size, least in reads.least.items())
        raise PacklightError(f"{name} reads {reads.kind}: its input_shape is ({wanted}), got {shape}")
    return shape


def _reaches(size: object, least: int) -> bool:
    return isinstance(size, int) and size >= least

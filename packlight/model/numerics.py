"""What a runtime computes in low precision, declared as values. Targets state them, passes obey them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from packlight.errors import PacklightError


@dataclass(frozen=True)
class Format:
    """An integer number format: value ≈ scale · (q − zero_point), q in [low, high].

    bits: 2 to 8. signed: two's complement or unsigned. symmetric: zero_point is the middle (0 when signed). A signed
    symmetric range of 8 bits leaves out the lowest value (−127..127), which costs nothing there; one of fewer bits has
    all of them (−8..7).
    per_channel: one scale an output channel instead of one a tensor. group: of a weight [outputs, inputs], how many
    elements along the input axis share a scale; None: all of a channel. power_of_two: scales are 2ⁿ, n an integer, so
    that a fixed-point machine shifts instead of multiplying.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    per_channel: bool = False
    group: int | None = None
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise PacklightError(f"integer formats have 2 to 8 bits, got {self.bits}")
        if self.group is not None and self.group < 2:
            raise PacklightError(f"a block of weights has 2 elements or more, got {self.group}")

    @property
    def low(self) -> int:
        return -(2 ** (self.bits - 1)) + (self.symmetric and self.bits == 8) if self.signed else 0

    @property
    def high(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format of one or two bytes that weights are stored in.

    scaled: each output channel is divided by a factor first, so that its largest magnitude is the format's `largest`.
    """

    name: str
    dtype: torch.dtype
    scaled: bool = False

    @property
    def largest(self) -> float:
        return float(torch.finfo(self.dtype).max)


FLOAT_FORMATS = (
    FloatFormat("fp8-e4m3", torch.float8_e4m3fn, scaled=True),
    FloatFormat("fp8-e5m2", torch.float8_e5m2, scaled=True),
    FloatFormat("bf16", torch.bfloat16),
    FloatFormat("fp16", torch.float16),
)


@dataclass(frozen=True)
class FusionGroup:
    """Operators that a runtime computes as one low-precision kernel.

    operators: names of the first operator. followers: activations that fold into it. weighted: its second
    argument is a constant weight, quantized per channel; otherwise every tensor argument is an activation.
    output: the kernel writes low precision only, so its result must be quantized as well.
    """

    operators: tuple[str, ...]
    followers: tuple[str, ...] = ()
    weighted: bool = False
    output: bool = True


@dataclass(frozen=True)
class Numerics:
    """One runtime's low-precision arithmetic.

    transparent: operators that hand on their input's quantization unchanged (reshapes, max pooling). shared: operators
    of the groups whose inputs and result must have one scale (concatenation, on some runtimes).
    dynamic: operators that it also runs on activations whose range is taken at run time. stored: operators whose tables
    and matrices it keeps as integers and computes with in float. blocked: operators that read float activations and
    weights of integers with a scale a block along the input axis; blocks: how many elements such a block may have.
    floats: formats that its files can hold weights in, which it computes with in float32. tables: whether its files
    can hold weights as a table and indices.
    channel_multiple: channel counts that are multiples of it run at full speed.
    """

    activation: Format
    weight: Format
    groups: tuple[FusionGroup, ...]
    transparent: frozenset[str] = frozenset()
    channel_multiple: int = 1
    dynamic: frozenset[str] = frozenset()
    stored: frozenset[str] = frozenset()
    blocked: frozenset[str] = frozenset()
    blocks: tuple[int, ...] = ()
    floats: tuple[FloatFormat, ...] = ()
    shared: frozenset[str] = frozenset()
    tables: bool = False

    def group(self, operator: str) -> FusionGroup | None:
        """The fusion group that starts with this operator, or None where it runs in float."""
        return next((g for g in self.groups if operator in g.operators), None)


def common(several: Sequence[Numerics]) -> Numerics:
    """What all of several runtimes compute, so that one quantized Model goes to each of them.

    Groups: operators that all run, with the followers that all fold in; a result is quantized where any of them
    insists. Formats: symmetric where any is, as many bits as all have. Signedness is the first one's: export changes it
    without loss. Raises PacklightError for none.
    """
    if not several:
        raise PacklightError("no target was given to quantize for")
    first, *others = several
    for other in others:
        first = replace(
            first,
            activation=_narrower(first.activation, other.activation),
            weight=_narrower(first.weight, other.weight),
            groups=tuple(_common_groups(first, other)),
            transparent=first.transparent & other.transparent,
            channel_multiple=math.lcm(first.channel_multiple, other.channel_multiple),
            dynamic=first.dynamic & other.dynamic,
            stored=first.stored & other.stored,
            blocked=first.blocked & other.blocked,
            blocks=tuple(b for b in first.blocks if b in other.blocks),
            floats=tuple(f for f in first.floats if f in other.floats),
            shared=first.shared | other.shared,
            tables=first.tables and other.tables,
        )
    return first


def _narrower(one: Format, other: Format) -> Format:
    return replace(
        one, bits=min(one.bits, other.bits), symmetric=one.symmetric or other.symmetric,
        per_channel=one.per_channel and other.per_channel, power_of_two=one.power_of_two or other.power_of_two,
    )  # fmt: skip


def _common_groups(one: Numerics, other: Numerics) -> Iterator[FusionGroup]:
    for group in one.groups:
        for operator in group.operators:
            theirs = other.group(operator)
            if theirs is not None and theirs.weighted == group.weighted:
                followers = tuple(f for f in group.followers if f in theirs.followers)
                yield FusionGroup((operator,), followers, group.weighted, group.output or theirs.output)

"""Options of weight sharing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from packlight.errors import PacklightError
from packlight.passes.codebooks.kmeans import INITS

KINDS = ("kmeans", "powers", "binary", "ternary")
SCOPES = ("global", "layer", "channel")
_FIXED = {"binary": 1, "ternary": 2}
_BITS = 4


@dataclass(frozen=True)
class Codebooks:
    """Options of the pass.

    bits: of an index, so that a table has 2^bits values: 1 to 8, "powers" takes 2 to 8; None: 4, and what "binary" (1)
    and "ternary" (2) have anyway.
    kind: "kmeans" (values of a table), "powers" (0 and ±2^−j), "binary" (±1) or "ternary" (0, ±1), these three times a
    factor an output channel.
    scope: of a k-means table: "global" (one for the network), "layer", or "channel" (one for every `group` >= 1 output
    channels). init, seed: how k-means starts: "linear", "density" or "random".
    exclude: layer-name patterns (shell wildcards) that stay in float.
    layers: bits by layer-name pattern; of several patterns that fit the last counts.
    """

    bits: int | None = None
    kind: str = "kmeans"
    scope: str = "layer"
    group: int = 1
    init: str = "linear"
    seed: int = 0
    exclude: tuple[str, ...] = ()
    layers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, given, known in (
            ("kind", self.kind, KINDS),
            ("scope", self.scope, SCOPES),
            ("init", self.init, INITS),
        ):
            if given not in known:
                raise PacklightError(f"{name} {given!r}: choose {', '.join(known)}")
        if self.kind in _FIXED and (self.layers or self.bits not in (None, _FIXED[self.kind])):
            raise PacklightError(f"{self.kind} weights have {_FIXED[self.kind]} bits; leave bits and layers out")
        least = 2 if self.kind == "powers" else 1
        given_bits: dict[str, Any] = {"weights": self.bits, **self.layers}
        for name, bits in given_bits.items():
            if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not least <= bits <= 8):
                raise PacklightError(f"weight sharing ({self.kind}) of {name} takes {least} to 8 bits, got {bits!r}")
        if self.scope == "global" and self.kind == "kmeans" and self.layers:
            raise PacklightError("one table for the network has the same bits for every layer; leave layers out")
        group: Any = self.group
        if isinstance(group, bool) or not isinstance(group, int) or group < 1:
            raise PacklightError(f"a table is of a group of output channels, 1 or more; got {self.group!r}")

    @property
    def default(self) -> int:
        """Bits where no pattern says another number."""
        return self.bits or _FIXED.get(self.kind, _BITS)

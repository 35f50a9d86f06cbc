"""How many bits each weight and each activation gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.files import cache_folder
from packlight.model import Model, matching
from packlight.model.numerics import Format
from packlight.passes.quantize.mixed import Roundings, damage_table
from packlight.passes.quantize.placement import Placement
from packlight.passes.quantize.presets import PRESETS, equal_bits, local_bits, mean_bits, parse_limit
from packlight.passes.quantize.refine import choose
from packlight.passes.sensitivity.change import SQUARED, Changes, Distance

_END = "first or last layer"
_UNSATURATED = 7  # bits of weights of which two products with 8 bits fit into int16


@dataclass(frozen=True)
class Bits:
    """weights: 2 to 8. activations: 2 to 8; None: they stay in float. ends: of what the first and the last layers read
    and of their weights, where that is more than the others'. layers: of weights by layer-name pattern, over `weights`
    and `ends`; of several patterns that fit the last counts.

    mixed: how weights get theirs within `budget` in place of `weights`, while `layers` and `ends` hold: "global" (one
    number for all), "local" (each layer the fewest at which its weight's signal-to-noise ratio reaches one threshold
    for all) or "mixed" (by what each does to the outputs); a number is "mixed" with that many bits in the mean.
    budget: "200kB" of weights, "4bits" a weight in the mean, or of "local" its threshold, "20dB". reduced: at most 7
    of a weight that is multiplied by quantized activations, so that kernels without VNNI cannot saturate.
    """

    weights: int = 8
    activations: int | None = 8
    ends: int = 8
    layers: Mapping[str, int] = field(default_factory=dict)
    mixed: float | str | None = None
    budget: str | None = None
    reduced: bool = False

    def __post_init__(self) -> None:
        given: dict[str, Any] = {"weights": self.weights, "activations": self.activations, "ends": self.ends}
        for name, bits in (given | dict(self.layers)).items():
            if name == "activations" and bits is None:
                continue
            if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
                raise PacklightError(f"quantization of {name} takes 2 to 8 bits, got {bits!r}")
        if isinstance(self.mixed, str):
            if self.mixed not in PRESETS:
                raise PacklightError(f"mixed {self.mixed!r}: choose {', '.join(PRESETS)}, or bits a weight in the mean")
            if self.budget is None:
                raise PacklightError(f"mixed {self.mixed!r} needs a budget, e.g. 200kB or 4bits")
            parse_limit(self.budget, self.mixed)
        elif self.budget is not None:
            raise PacklightError(f"budget {self.budget!r} needs mixed: {', '.join(PRESETS)}")
        elif self.mixed is not None and not 2 <= self.mixed <= 8:
            raise PacklightError(f"mixed precision takes 2 to 8 bits in the mean, got {self.mixed}")


@dataclass(frozen=True)
class Look:
    """What bits are chosen by. form: of weights. batches: calibration inputs. search: whether weights are clipped by
    squared error. distance: of outputs."""

    form: Format
    batches: Sequence[tuple[Tensor, ...]]
    search: bool = True
    distance: Distance = SQUARED


def chosen_bits(model: Model, placement: Placement, bits: Bits, look: Look) -> tuple[dict[Node, int], list[str]]:
    """Of every weighted kernel's weight, by its first node, and of every value that is quantized for itself; how they
    were chosen, in words, where there was a choice."""
    found = dict.fromkeys(placement.values, bits.activations or 8)
    weighted = [k for k in placement.kernels if k.group.weighted]
    named = {model.layer(k.first): k.first for k in weighted}
    outer = ends_of(model, placement)
    for kernel in weighted:
        end = kernel.first in outer
        found[kernel.first] = max(bits.ends, bits.weights) if end else bits.weights
        for value in kernel.inputs if end and bits.activations else ():
            found[placement.root(value)] = max(bits.ends, bits.activations or 0)
    held: dict[Node, str] = {}
    for pattern, wanted in bits.layers.items():
        for name in matching(list(model.layers()), (pattern,)) & named.keys():
            found[named[name]] = wanted
            held[named[name]] = "set by name"
    mixed, notes = _by_layer(model, named, outer, bits, held, found, look)
    found |= mixed
    if bits.reduced and bits.activations is not None:
        found |= {node: min(found[node], _UNSATURATED) for node in named.values()}
    return found, notes


def _by_layer(
    model: Model, named: Mapping[str, Node], outer: set[Node], bits: Bits, held: dict[Node, str],
    found: Mapping[Node, int], look: Look,
) -> tuple[dict[Node, int], list[str]]:  # fmt: skip
    """What `mixed` gives, where it is asked for. held: layers with bits of their own, and why."""
    if bits.mixed is None or not named:
        return {}, []
    forms = Roundings(model, list(named.values()), look.form, search=look.search)
    sizes = {n: w.numel() for n, w in forms.weights.items()}
    limit = parse_limit(bits.budget or f"{bits.mixed}bits", bits.mixed if isinstance(bits.mixed, str) else "mixed")
    mean = mean_bits(limit, sizes)
    for node in outer & sizes.keys():
        if node not in held and bits.ends > (mean or 2):
            held[node] = _END
    fixed = {node: bits.ends if held[node] == _END else found[node] for node in held}
    mixed, notes = _mixed(model, forms, sizes, fixed, mean, limit.value, bits.mixed, look)
    return mixed, [*notes, *_told(model, mixed, held)]


def _mixed(
    model: Model, forms: Roundings, sizes: Mapping[Node, int], fixed: Mapping[Node, int], mean: float | None,
    threshold: float, how: float | str, look: Look,
) -> tuple[dict[Node, int], list[str]]:  # fmt: skip
    if how == "global":
        assert mean is not None
        return equal_bits(forms, sizes, fixed, mean), []
    if how == "local":
        found, reached = local_bits(forms, sizes, fixed, mean, threshold)
        return found, [f"bits by layer: the fewest at which the weight's signal-to-noise ratio is {reached:.1f} dB"]
    assert mean is not None
    table = damage_table(
        model, list(sizes), look.form, look.batches, look.search, look.distance, cache_folder()
    )  # fmt: skip
    chosen = choose(Changes(model, look.batches, look.distance), forms, table, mean, fixed)
    return dict(chosen.best.bits), chosen.notes(look.distance.what)


def _told(model: Model, bits: Mapping[Node, int], held: Mapping[Node, str]) -> list[str]:
    """Which layers have how many bits, the most first."""
    lines = []
    for b in sorted(set(bits.values()), reverse=True):
        names = [model.layer(n) + (f" ({held[n]})" if n in held else "") for n, own in bits.items() if own == b]
        lines.append(f"{b} bits: {', '.join(names)}")
    return lines


def ends_of(model: Model, placement: Placement) -> set[Node]:
    """The weighted kernels that no other one comes before, and those that no other one comes after."""
    weighted = {k.first for k in placement.kernels if k.group.weighted}
    fed: set[Node] = set()
    for node in model.nodes:
        if any(n in weighted or n in fed for n in node.all_input_nodes):
            fed.add(node)
    read: set[Node] = set()
    for node in reversed(list(model.nodes)):
        if any(n in weighted or n in read for n in node.users):
            read.add(node)
    return (weighted - fed) | (weighted - read)

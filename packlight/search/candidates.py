"""What a search tries: the training-free forms, the ones most likely to win first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from glob import escape

from torch.fx import Node

from packlight.measure.machine import has_vnni
from packlight.model import Model, matching
from packlight.model.operators import argument, kind, packet
from packlight.passes.quantize import Bits, Quantization
from packlight.targets import Target

PLAIN = "int8"
_FEW_CHANNELS = 4


@dataclass(frozen=True)
class Candidate:
    """A form to try. form: the target's weight form. quantization: None to stay in float. instead_of: the candidate
    that this one stands in for, tried only when that one was measured, not refused, and misses the budget. tuned: with
    what ran slower in int8 here left in float, as measured on the file of int8."""

    name: str
    form: str
    quantization: Quantization | None = None
    instead_of: str | None = None
    tuned: bool = False


def candidates(model: Model, target: Target, exclude: tuple[str, ...] = ()) -> list[Candidate]:
    """The forms to try for a Model, in order. exclude: layer patterns that stay in float in all of them."""
    kept = matching(list(model.layers()), exclude)
    stems = tuple(escape(name) for name in thin_stems(model) if name not in kept)
    plain = target.forms[0]
    bits = Bits(reduced=has_vnni() is False)  # int8 as it is would saturate there
    options = Quantization(exclude=exclude, bits=bits)
    wanted = [Candidate(PLAIN, plain, options), Candidate("int8-tuned", plain, options, tuned=True)]
    if stems:
        wanted.append(Candidate("int8-float-stem", plain, replace(options, exclude=(*exclude, *stems))))
    if mostly_dynamic(model, target):
        wanted.append(Candidate("int8-dynamic", plain, replace(options, mode="dynamic")))
    wanted += [Candidate(form, form) for form in target.forms[1:]]
    return [*wanted, Candidate("int8-minmax", plain, replace(options, ranges="minmax"), instead_of=PLAIN)]


def mostly_dynamic(model: Model, target: Target) -> bool:
    """Whether most weights belong to operators that the target runs with ranges taken at run time, or stores as
    integers. In a network of convolutions that form would do little more than the head."""
    numerics = target.numerics
    taken = numerics.dynamic | numerics.stored
    weights: dict[str, tuple[int, bool]] = {}
    for node in model.nodes:
        if kind(node) in ("contraction", "rnn", "lookup"):
            for source in (n for n in node.all_input_nodes if n.op == "get_attr"):
                weights[str(source.target)] = model.tensor(source).numel(), packet(node) in taken
    return sum(n for n, fits in weights.values() if fits) > sum(n for n, _ in weights.values()) / 2


def thin_stems(model: Model) -> list[str]:
    """The first convolutions that read at most four channels, by layer name.

    An int8 kernel has little to sum up there, and its input must be converted first. Whether a float stem is faster
    depends on the rest of the network: the table in docs/benchmarks.md has networks of both kinds. So it is a form to
    try, not a rule.
    """
    fed: set[Node] = set()  # nodes that depend on a contraction
    stems = []
    for node in model.nodes:
        if any(n in fed for n in node.all_input_nodes):
            fed.add(node)
        elif kind(node) == "contraction":
            fed.add(node)
            if packet(node) in ("conv1d", "conv2d") and _channels(model, node) <= _FEW_CHANNELS:
                stems.append(model.layer(node))
    return stems


def _channels(model: Model, conv: Node) -> int:
    weight = conv.args[1]
    if not isinstance(weight, Node) or weight.op != "get_attr":
        return _FEW_CHANNELS + 1
    return int(model.tensor(weight).shape[1]) * int(argument(conv, "groups"))

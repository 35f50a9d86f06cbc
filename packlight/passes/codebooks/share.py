"""Weight sharing: every weight becomes one of a few values, which a table holds.

Han et al. 2016 (arXiv 1510.00149), section 3: values by k-means over a layer, weights stored as numbers of table
entries; training goes on through the table, where gradients of the weights that share a value add up (section 3.3).
Other than there, tables can be those of the whole network or of groups of output channels, errors can be weighted by
what the weights are multiplied with, and three fixed grids take a factor an output channel instead of a table.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from packlight.errors import PacklightError
from packlight.model import Model, Step, matching
from packlight.model.codebooks import insert_lookup, lookups
from packlight.model.lineage import options_of
from packlight.model.shapes import propagate
from packlight.passes.codebooks.encode import encoded, encoded_together, stored_bytes
from packlight.passes.codebooks.options import Codebooks
from packlight.passes.codebooks.weights import Weight, weights_of


def share_weights(
    model: Model, options: Codebooks = Codebooks(), importance: Mapping[str, Tensor] | None = None
) -> Model:
    """A copy of a Model, in eval mode, whose weights are looked up in tables; biases and norms stay as they are.

    importance: by weight name, >= 0 of the weight's shape, what its squared errors count for in k-means (see
    `input_moments`); 1 where not given. Weights that are exactly 0, where a tenth of a layer's or more are, stay 0,
    also in training (but for "binary", which has no 0). What stays in float, and why, is in the result's `notes`.
    Raises PacklightError for a model that is quantized or shared already, or has nothing to share.
    """
    if model.is_quantized:
        raise PacklightError(f"{model.name} is quantized already; share the weights of its float version")
    if lookups(model):
        raise PacklightError(f"{model.name} has shared weights already; start from its float version")
    model = propagate(model.copy().eval())
    kept: dict[str, str] = {}
    bits = _bits(model, options)
    chosen = []
    for weight in weights_of(model, options.exclude, kept):
        if stored_bytes(weight, bits.get(weight.layer, options.default), options) < weight.value.nbytes:
            chosen.append(weight)
        else:
            kept[weight.layer] = "its table would take what sharing saves"
    if not chosen:
        reasons = "; ".join(f"{k}: {v}" for k, v in list(kept.items())[:3])
        raise PacklightError(f"{model.name} has no weights to share ({reasons or 'no layer fits'})")
    lost = _insert(model, chosen, options, bits, importance or {})
    model.notes = (
        *model.notes,
        *(f"{layer} stays in float: {why}" for layer, why in kept.items()),
        *(f"{layer} had weights of 0 by pruning; binary weights have none" for layer in lost),
    )
    return propagate(model.tidy()).with_step(Step("share_weights", options=options_of(options) | (
        {"importance": True} if importance else {}
    )))  # fmt: skip


def _bits(model: Model, options: Codebooks) -> dict[str, int]:
    """By layer, of those that a pattern names."""
    names = list(model.layers())
    return {name: bits for pattern, bits in options.layers.items() for name in matching(names, (pattern,))}


def _insert(
    model: Model, chosen: list[Weight], options: Codebooks, bits: Mapping[str, int], importance: Mapping[str, Tensor]
) -> list[str]:
    """Put the lookups into the graph; the layers that lose zeros."""
    if options.kind == "kmeans" and options.scope == "global":
        name = _free(model, "shared_table")
        codes = encoded_together(chosen, options.default, options, importance)
        model.set_tensor(name, codes[0].table[0], trainable=True)
        for weight, made in zip(chosen, codes, strict=True):
            insert_lookup(model, weight.node, made, weight.layer, name)
        return []
    for weight in chosen:
        made = encoded(weight, bits.get(weight.layer, options.default), options, importance.get(weight.name))
        insert_lookup(model, weight.node, made, weight.layer)
    return [w.layer for w in chosen if w.pruned and options.kind == "binary"]


def _free(model: Model, stem: str) -> str:
    taken, name, i = model.named_tensors(), stem, 0
    while name in taken:
        i += 1
        name = f"{stem}_{i}"
    return name

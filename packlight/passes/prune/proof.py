"""The proof of a cut: the network with the same channels masked, beside the cut one.

A mask is not "multiply by zero and run": a norm, a mean or a softmax over channels would see the zeros. After every
operator, what is dead is set to zero; operators that look along an axis do so over what lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from packlight.model import Model
from packlight.model.operators import argument, packet
from packlight.passes.prune.labels import Array, Layout
from packlight.passes.prune.rules.reduce import dims_of
from packlight.passes.prune.walk import Labelled

_DROPOUTS = {"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"}
_NEVER_LESS = {"softmax": -torch.inf, "_softmax": -torch.inf, "log_softmax": -torch.inf, "_log_softmax": -torch.inf,
               "amax": -torch.inf, "amin": torch.inf, "logsumexp": -torch.inf, "max": -torch.inf,
               "min": torch.inf}  # fmt: skip


class _Quiet(Interpreter):
    """Runs a graph in float64, with dropout left out, as two networks of different sizes draw different numbers."""

    def run_node(self, n: Node) -> Any:
        if packet(n) in _DROPOUTS:
            return self.fetch_args_kwargs_from_env(n)[0][0]
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        schema: Any = getattr(target, "_schema", None)
        names = [a.name for a in schema.arguments] if schema is not None else []
        for name in ("dropout", "dropout_p"):
            if name in names and schema.name.startswith("aten::") and names.index(name) < len(args):
                at = names.index(name)
                args = (*args[:at], 0.0, *args[at + 1 :])
        if target is torch.ops.aten.view.default:  # a masked value may have other strides
            target = torch.ops.aten.reshape.default
        found = super().call_function(target, *_in_doubles(args, kwargs))
        return found.double() if isinstance(found, Tensor) and found.dtype == torch.float32 else found


def _in_doubles(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of an operator that asks for double where it asked for float."""
    wider = {torch.float32: torch.float64}
    return (
        tuple(wider.get(a, a) if isinstance(a, torch.dtype) else a for a in args),
        {k: wider.get(v, v) if isinstance(v, torch.dtype) else v for k, v in kwargs.items()},
    )


class _Masked(_Quiet):
    """Runs the uncut graph with what is dead masked. layouts: by the node's name."""

    def __init__(self, module: Any, layouts: dict[str, Any], alive: Array):
        super().__init__(module, garbage_collect_values=True)
        self.layouts, self.alive = layouts, torch.from_numpy(alive > 0)

    def run_node(self, n: Node) -> Any:
        layout = self.layouts.get(n.name)
        if n.op == "call_function" and any(self.mask(self.layouts.get(i.name)) for i in n.all_input_nodes):
            value = self._over_what_lives(n)
        else:
            value = super().run_node(n)
        if n.op == "get_attr" and any(packet(u).startswith("_weight_norm") for u in n.users):
            return value  # its length is that of the whole; a cut keeps the values of what stays
        if isinstance(layout, list):
            return type(value)(self._masked(v, part) for v, part in zip(value, layout, strict=True))
        return self._masked(value, layout)

    def mask(self, layout: Any) -> bool:
        layouts = layout if isinstance(layout, list) else [layout]
        return any(
            not bool(self.alive[torch.tensor(a.labels)].all())
            for part in layouts if part for a in part if a is not None
        )  # fmt: skip

    def _masked(self, value: Any, layout: Layout | None) -> Any:
        if not isinstance(value, Tensor) or not layout:
            return value
        lives = self._lives(layout, value.dim())
        return value if lives is None else torch.where(lives, value, torch.zeros((), dtype=value.dtype))

    def _lives(self, layout: Layout, rank: int) -> Tensor | None:
        """Where a value lives, as a mask that spreads to its shape; None: everywhere."""
        whole: Tensor | None = None
        for a, axis in enumerate(layout):
            if axis is None:
                continue
            lives = self.alive[torch.tensor(axis.labels)]
            if bool(lives.all()):
                continue
            order = sorted(range(len(axis.on) + 1), key=lambda i: (*axis.on, a)[i])
            lives = lives.permute(order)
            shape = [1] * rank
            for at, size in zip(sorted((*axis.on, a)), lives.shape, strict=True):
                shape[at] = size
            lives = lives.reshape(shape)
            whole = lives if whole is None else whole & lives
        return whole

    def _over_what_lives(self, n: Node) -> Any:
        name = packet(n)
        source = n.all_input_nodes[0] if n.all_input_nodes else None
        layout = self.layouts.get(source.name) if source is not None else None
        if isinstance(layout, tuple) and source is not None and name in _RULES:
            x = self.env[source]
            lives = self._lives(layout, x.dim())
            if lives is not None:
                args, kwargs = _in_doubles(*self.fetch_args_kwargs_from_env(n))
                return _RULES[name](n, x, lives.expand(x.shape), args, kwargs)
        return super().run_node(n)


def _filled(n: Node, x: Tensor, lives: Tensor, args: Any, kwargs: Any) -> Any:
    given = x.masked_fill(~lives, _NEVER_LESS[packet(n)])
    target: Any = n.target
    found = target(given, *args[1:], **kwargs)
    return torch.nan_to_num(found, nan=0.0) if isinstance(found, Tensor) else found


def _moments(x: Tensor, lives: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance over what lives, and how many that are; axes are kept."""
    count = lives.sum(dims, keepdim=True).clamp_min(1)
    mean = (x * lives).sum(dims, keepdim=True) / count
    spread = ((x - mean).square() * lives).sum(dims, keepdim=True) / count
    return mean, spread, count


def _mean(n: Node, x: Tensor, lives: Tensor, args: Any, kwargs: Any) -> Tensor:
    dims = dims_of(n, x.dim())
    keep = bool(_argument(n, "keepdim", False))
    mean = _moments(x, lives, dims)[0]
    return mean if keep else mean.squeeze(dims)


def _argument(n: Node, name: str, default: Any) -> Any:
    try:
        return argument(n, name)
    except KeyError:
        return default


def _variance(n: Node, x: Tensor, lives: Tensor, args: Any, kwargs: Any) -> Any:
    dims = dims_of(n, x.dim())
    keep = bool(_argument(n, "keepdim", False))
    mean, spread, count = _moments(x, lives, dims)
    correction = _argument(n, "correction", None)
    correction = float(_argument(n, "unbiased", True)) if correction is None else float(correction)
    spread = spread * count / (count - correction).clamp_min(0)
    spread = spread.sqrt() if packet(n).startswith("std") else spread
    parts = [v if keep else v.squeeze(dims) for v in (spread, mean)]
    return tuple(parts) if packet(n).endswith("_mean") else parts[0]


def _layer_norm(n: Node, x: Tensor, lives: Tensor, args: Any, kwargs: Any) -> Tensor:
    dims = list(range(x.dim() - len(args[1]), x.dim()))
    mean, spread, count = _moments(x, lives, dims)
    eps = _argument(n, "eps", 1e-5)
    if packet(n) == "rms_norm":
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        y = x * ((x * lives).square().sum(dims, keepdim=True) / count + eps).rsqrt()
    else:
        y = (x - mean) * (spread + eps).rsqrt()
    weight, bias = (args[i] if len(args) > i else None for i in (2, 3))
    y = y if weight is None else y * weight
    return y if bias is None or packet(n) == "rms_norm" else y + bias


def _group_norm(n: Node, x: Tensor, lives: Tensor, args: Any, kwargs: Any) -> Tensor:
    groups, shape = int(args[1]), x.shape
    apart = (shape[0], groups, -1)
    mean, spread, _ = _moments(x.reshape(apart), lives.reshape(apart), [2])
    y = ((x.reshape(apart) - mean) * (spread + _argument(n, "eps", 1e-5)).rsqrt()).reshape(shape)
    weight, bias = (args[i] if len(args) > i else None for i in (2, 3))
    along = [1, -1, *[1] * (x.dim() - 2)]
    y = y if weight is None else y * weight.reshape(along)
    return y if bias is None else y + bias.reshape(along)


def _distance(n: Node, x: Tensor, lives: Tensor, args: Any, kwargs: Any) -> Tensor:
    p, eps, keep = (_argument(n, name, None) for name in ("p", "eps", "keepdim"))
    apart = (args[0] - args[1] + eps) * lives
    return torch.linalg.vector_norm(apart, p, dim=-1, keepdim=keep)


_RULES: dict[str, Any] = {
    **dict.fromkeys(_NEVER_LESS, _filled), "mean": _mean, "var": _variance, "std": _variance, "var_mean": _variance,
    "std_mean": _variance, "layer_norm": _layer_norm, "rms_norm": _layer_norm, "group_norm": _group_norm,
    "pairwise_distance": _distance,
}  # fmt: skip


def disagreement(
    whole: Labelled, alive: Array, small: Model, inputs: Sequence[Tensor], training: bool = False
) -> float:
    """The largest difference of an output of the masked network and of the cut one, over the largest value.

    whole: labelled and not cut. inputs: of the sizes that labels were given for. Computed in float64 where the network
    can be, so that only rounding is left. Infinity where shapes differ, or where one is finite and the other is not.
    """
    outputs = []
    for model, masked in ((whole.model, True), (small, False)):
        twin = model.copy().train(training)
        module = twin.graph_module.double()
        names = {n.name: v for n, v in zip(twin.nodes, whole.layouts.values(), strict=True)} if masked else {}
        run: Any = _Masked(module, names, alive) if masked else _Quiet(module)
        with torch.no_grad():
            outputs.append(run.run(*(x.double() if x.is_floating_point() else x for x in inputs)))
    worst = 0.0
    for a, b in zip(*outputs, strict=True):
        if a.shape != b.shape:
            return float("inf")
        a, b = a.double(), b.double()
        if not torch.equal(a.isfinite(), b.isfinite()):
            return float("inf")
        a, b = torch.nan_to_num(a), torch.nan_to_num(b)
        size = float(b.abs().max()) if b.numel() else 0.0
        worst = max(worst, float((a - b).abs().max()) / max(size, 1e-12) if b.numel() else 0.0)
    return worst

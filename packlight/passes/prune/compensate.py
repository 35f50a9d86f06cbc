"""Least squares: what stays takes over what a cut took, as far as the data lets it.

Where a layer reads features x of which x_D go and x_K stay, x_D is predicted from x_K over calibration data,
x_D ≈ m_D + A (x_K − m_K), and put in: W_K + W_D A, with the bias moved by W_D (m_D − A m_K). That is the optimum of the
layer's squared error, all weights removed at once (Hassibi, Stork 1992, "Second order derivatives for network pruning:
optimal brain surgeon", equation 5, with the layer's own error as the loss). A convolution's features are the patches
under its kernel; where those are too many, its channels, with one A for all taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from packlight.model import Model
from packlight.model.operators import argument, packet
from packlight.passes.patches import CHANNELS, patches, unfolds
from packlight.passes.prune.groups import Flags, Groups
from packlight.passes.watch import Watch

_WIDEST = 4096  # features; the system to solve has as many unknowns
_ROWS = 4  # times the features: rows of a batch that are looked at, spread evenly; 512 at least
_DAMPING = 0.01  # of the mean variance, added to each, as in GPTQ (Frantar et al. 2022, arXiv 2210.17323, section 3.3)


class _Moments:
    """Sums over samples and positions of a layer's features x, and of x xᵀ. taps: features of one channel."""

    def __init__(self, node: Node, channels: int, taps: int):
        self.node, self.channels = node, channels
        self.taps = taps if unfolds(node) and channels * taps <= _WIDEST else 1
        width = channels * self.taps
        self.count = 0
        self.first = torch.zeros(width, dtype=torch.float64)
        self.second = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        if self.taps > 1:
            rows = patches(self.node, x, tuple(self.node.args[1].meta["val"].shape[2:]))  # type: ignore[union-attr]
        else:
            rows = x.movedim(CHANNELS[packet(self.node)], -1).reshape(-1, self.channels)
        rows = rows[:: -(-len(rows) // max(512, _ROWS * rows.shape[1]))]
        self.count += len(rows)
        self.first += rows.sum(0, dtype=torch.float64)
        self.second += rows.T @ rows


def compensated(groups: Groups, gone: Flags, batches: Sequence[tuple[Tensor, ...]]) -> Model:
    """A copy of the uncut Model whose layers make do without the channels that will go."""
    made = groups.labelled.model.copy()
    readers = _readers(made, groups, gone)
    moments: dict[Any, _Moments] = {}  # layers that see the same features share them
    watched: dict[Node, list[Callable[[Tensor], None]]] = {}
    for node, stays in readers.items():
        if (key := _sees(made, node)) not in moments:
            moments[key] = _Moments(node, len(stays), _taps(made, node))
            watched.setdefault(key[0], []).append(moments[key].add)
    with torch.no_grad():
        for batch in batches:
            Watch(made, watched).run(*batch)
        for node, stays in readers.items():
            _take_over(made, node, moments[_sees(made, node)], stays)
    return made


def _sees(model: Model, node: Node) -> tuple[Any, ...]:
    """What a layer's features are made of: a value, and how a kernel goes over it."""
    kernel = tuple(model.tensor(argument(node, "weight")).shape[2:])
    how = [str(argument(node, n)) for n in ("dilation", "padding", "stride")] if packet(node) != "linear" else []
    return node.args[0], packet(node), kernel, *how


def _taps(model: Model, node: Node) -> int:
    return model.tensor(argument(node, "weight"))[0, 0].numel()


def _readers(model: Model, groups: Groups, gone: Flags) -> dict[Node, Tensor]:
    """Layers with weights of their own that read channels some of which go; [channels], which of them stay."""
    found: dict[Node, Tensor] = {}
    alive = groups.alive(gone)
    layouts = dict(zip(model.nodes, groups.labelled.layouts.values(), strict=True))
    for node in model.nodes:
        if packet(node) not in CHANNELS or (packet(node) != "linear" and argument(node, "groups") != 1):
            continue
        weight, source = argument(node, "weight"), node.args[0]
        if weight.op != "get_attr" or len(weight.users) > 1:
            continue
        layout = layouts[source]  # type: ignore[index]
        axis = layout[CHANNELS[packet(node)]] if layout else None
        if axis is None or axis.on or len(axis.labels) > _WIDEST:
            continue
        stays = torch.from_numpy(alive[axis.labels] > 0)
        if stays.any() and not stays.all():
            found[node] = stays
    return found


def _take_over(model: Model, node: Node, seen: _Moments, stays: Tensor) -> None:
    stays = stays.repeat_interleave(seen.taps)
    mean = seen.first / seen.count
    norm = _norm_after(node)
    shifts = argument(node, "bias") is not None or norm is not None
    second = seen.second / seen.count - (torch.outer(mean, mean) if shifts else 0)
    inner = second[stays][:, stays]
    damping = _DAMPING * inner.diagonal().mean().clamp_min(1e-12)
    across = second[stays][:, ~stays]
    map_ = torch.linalg.solve(inner + damping * torch.eye(len(inner)).double(), across).T  # A [gone, stays]
    weight = model.tensor(argument(node, "weight"))
    whole = weight.double().reshape(len(weight), len(stays), -1)  # [outputs, features, taps that share a map]
    lost = whole[:, ~stays]
    whole[:, stays] += torch.einsum("odt,dk->okt", lost, map_)
    weight.copy_(whole.reshape(weight.shape).to(weight.dtype))
    if shifts:
        shift = lost.sum(2) @ (mean[~stays] - map_ @ mean[stays])
        if argument(node, "bias") is not None:
            bias = model.tensor(argument(node, "bias"))
            bias.copy_((bias.double() + shift).to(bias.dtype))
        elif norm is not None:
            running = model.tensor(argument(norm, "running_mean"))
            running.copy_((running.double() - shift).to(running.dtype))


def _norm_after(node: Node) -> Node | None:
    """The batch norm that alone reads a layer's result, with running statistics of its own."""
    (user,) = node.users if len(node.users) == 1 else (None,)
    if user is None or packet(user) != "batch_norm":
        return None
    mean: Any = argument(user, "running_mean")
    return user if isinstance(mean, Node) and mean.op == "get_attr" and len(mean.users) == 1 else None

"""Learned rounding: which of the two nearest integers each weight becomes, so that what comes out changes least.

AdaRound (Nagel et al. 2020, arXiv 2004.10568, section 3): a sigmoid a weight that a penalty drives to 0 or 1, trained
on the outputs of one layer. BRECQ (Li et al. 2021, arXiv 2102.05426, section 3.2): on the outputs of a block. QDrop
(Wei et al. 2022, arXiv 2203.05740, section 3.3): with activations quantized at random, half of them, meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.model.integers import grid
from packlight.model.operators import packet
from packlight.passes.quantize.blocks import Batch, Block, Walker, blocks, execute

_STRETCH = (-0.1, 1.1)  # of the sigmoid, so that 0 and 1 are reached
_SHARPNESS = (20.0, 2.0)  # of the penalty, from first to last
_WARM_UP = 0.2  # share of the steps without penalty


@dataclass(frozen=True)
class Rounding:
    """layers: reconstruct every layer by itself (AdaRound), not block by block (BRECQ). drop: in [0, 1], the share of
    activations that are left unquantized while weights learn (QDrop); 0 leaves none. steps: >= 1, a block. batch:
    samples a step. learning_rate, penalty: of the rounding. scales: also learn the scales of activations."""

    layers: bool = False
    drop: float = 0.5
    steps: int = 500
    batch: int = 32
    learning_rate: float = 3e-2
    penalty: float = 3.0
    scales: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1 or self.steps < 1 or self.batch < 1 or not self.learning_rate > 0:
            raise PacklightError(
                "learned rounding takes drop in [0, 1], steps >= 1, batch >= 1 and a learning rate > 0, got "
                f"{self.drop}, {self.steps}, {self.batch} and {self.learning_rate}"
            )


NAMED = {
    "adaround": Rounding(layers=True, drop=1.0, scales=False),
    "block": Rounding(),
}


def learn_rounding(
    quantized: Model,
    whole: Model,
    batches: Sequence[Batch],
    how: Rounding = Rounding(),
    on_block: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Round the weights of a quantized Model (in place) so that it computes what `whole`, the float Model that it was
    made of, does on these inputs. Both in eval mode; batches: of one size."""
    known = {n.name: n for n in whole.nodes}
    now, wanted = Walker(quantized, batches), Walker(whole, batches)
    found = blocks(quantized, layers=how.layers)
    for i, block in enumerate(found):
        for value in block.inputs:
            now.advance(value)
        twin = known[block.output.name]
        wanted.advance(twin)
        _learn(block, quantized, _joined(now, block.inputs), _joined(wanted, [twin])[twin], how)
        now.forget()
        wanted.forget()
        on_block(i + 1, len(found))


def _joined(walker: Walker, nodes: Sequence[Node]) -> dict[Node, Any]:
    """Values of all batches one behind the other; what is no batch of samples is that of the first."""
    size = walker.size
    found = {}
    for node in nodes:
        values = walker.values(node)
        batched = isinstance(values[0], Tensor) and values[0].dim() > 0 and len(values[0]) == size
        found[node] = torch.cat(values) if batched else values[0]
    return found


class _Soft:
    """A weight [channels, …] between the two integers around it."""

    def __init__(self, model: Model, node: Node):
        source: Any = node.args[0]
        self.master = model.tensor(source.args[0])
        self.scale, zero, low, high = grid(model, node)
        self.low, self.high = low - zero, high - zero
        exact = self.master.detach() / self.scale
        self.floor = exact.floor()
        rest = (exact - self.floor - _STRETCH[0]) / (_STRETCH[1] - _STRETCH[0])
        self.logits = nn.Parameter(torch.logit(rest))  # where the sigmoid starts, the weight is what it was

    def share(self) -> Tensor:
        """How far each weight is from the lower integer to the upper, 0..1."""
        return (torch.sigmoid(self.logits) * (_STRETCH[1] - _STRETCH[0]) + _STRETCH[0]).clamp(0, 1)

    def value(self, up: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(self.floor + up, self.low), self.high) * self.scale

    def settle(self) -> None:
        with torch.no_grad():
            self.master.copy_(self.value((self.logits >= 0).to(self.floor.dtype)))


class _Step:
    """The scale of an activation, learned with the rounding (Esser et al. 2019, arXiv 1902.08153, section 2)."""

    def __init__(self, node: Node, learned: bool):
        self.node, self.learned = node, learned
        self.factor = nn.Parameter(torch.zeros(()))

    def value(self, x: Tensor, env: dict[Node, Any], drop: float) -> Tensor:
        """env: values so far, among them a scale and a zero point that are taken at run time."""
        settings: Any = [env[a].detach().to(x.dtype) if isinstance(a, Node) else a for a in self.node.args[1:5]]
        scale, zero, low, high = settings
        scale = scale * self.factor.exp() if self.learned else scale
        steps = x / scale
        q = (steps + (steps.round() - steps).detach() + zero).clamp(low, high)
        made = (q - zero) * scale
        return torch.where(torch.rand_like(x) < drop, x, made) if drop else made

    def settle(self) -> None:
        if self.learned:
            quantize: Any = self.node.args[0]
            scale = float(quantize.args[1] * self.factor.detach().exp())
            for node in (quantize, self.node):
                node.update_arg(1, scale)


def _steps(block: Block, model: Model, learned: bool) -> dict[Node, _Step]:
    """Activations that the block quantizes. Scales that several values share stay as they are."""
    shared: dict[Any, int] = {}
    for node in model.nodes:
        if packet(node) == "dequantize_per_tensor":
            shared[node.args[1:3]] = shared.get(node.args[1:3], 0) + 1
    inside = set(block.nodes)
    return {
        n: _Step(n, learned and shared[n.args[1:3]] == 1 and not isinstance(n.args[1], Node))
        for n in block.nodes
        if packet(n) == "dequantize_per_tensor" and n.args[0] in inside
    }


def _learn(block: Block, model: Model, given: dict[Node, Any], wanted: Tensor, how: Rounding) -> None:
    soft = {n: _Soft(model, n) for n in block.weights if packet(n).startswith("dequantize_per_channel")}
    steps = _steps(block, model, how.scales)
    count, total = len(wanted), sum(s.logits.numel() for s in soft.values())
    draw = torch.Generator().manual_seed(how.seed)
    learned = [{"params": [s.logits for s in soft.values()], "lr": how.learning_rate}]
    learned.append({"params": [s.factor for s in steps.values() if s.learned], "lr": how.learning_rate / 10})
    optimizer = torch.optim.Adam([g for g in learned if g["params"]])

    def replaced(node: Node, env: dict[Node, Any]) -> Any:
        if node in soft:
            return env[node]
        if node in steps:
            source: Any = node.args[0]
            return steps[node].value(env[source.args[0]], env, how.drop if learning else 0.0)
        skipped = [n for n in node.users if n in soft or n in steps]
        return () if packet(node).startswith("quantize_per_") and len(skipped) == len(node.users) else None

    def error(rows: Any) -> Tensor:
        part = {n: v[rows] if isinstance(v, Tensor) and v.dim() and len(v) == count else v for n, v in given.items()}
        out = execute(block, model, part | {n: s.value(ups[n]) for n, s in soft.items()}, replaced)
        return (out - wanted[rows]).square().mean()

    learning = False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        ups = {n: (s.logits >= 0).to(s.floor.dtype) for n, s in soft.items()}
        size = float(error(slice(0, how.batch))) or 1.0
    learning = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        for step in range(how.steps):
            rows = torch.randperm(count, generator=draw)[: how.batch]
            ups = {n: s.share() for n, s in soft.items()}
            loss = error(rows) / size
            if (t := (step / how.steps - _WARM_UP) / (1 - _WARM_UP)) > 0:
                beta = _SHARPNESS[1] + (_SHARPNESS[0] - _SHARPNESS[1]) * (1 + math.cos(t * math.pi)) / 2
                open_ = sum((1 - (2 * up - 1).abs().pow(beta)).sum() for up in ups.values())
                loss = loss + how.penalty * open_ / total
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for weight in soft.values():
        weight.settle()
    for activation in steps.values():
        activation.settle()

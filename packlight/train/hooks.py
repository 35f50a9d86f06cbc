"""What joins a training run: losses, regularisers, schedules on weights. A hook works the same in packlight's loop
and, through `Hooks`, in a loop of your own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.task import Data
from packlight.train.taps import Tapped


@dataclass
class Run:
    """What hooks see of a run. model: the one in training. steps: planned; None where time ends the run. step: done.
    progress: share of the run that is done, 0..1. learning_rate: of the next step, before layer-wise factors. data:
    what is trained on; None in a loop of your own."""

    model: Model
    steps: int | None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step: int = 0
    progress: float = 0.0
    learning_rate: float = 0.0
    data: Data | None = None


@dataclass
class Seen:
    """What one forward pass saw and gave. inputs, outputs: flat. targets: None on unlabelled data. taps: outputs of
    the layers that hooks asked for. index: positions of the samples in the training data; None where there are none,
    or where they were augmented."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    targets: Tensor | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    index: Any = None


class Hook:
    """Override what you need. A hook serves one run at a time.

    taps: names of layers whose outputs `loss` wants. task_weight: what the task's own loss is multiplied by.
    """

    taps: tuple[str, ...] = ()
    task_weight: float = 1.0

    def start(self, run: Run) -> None:
        """Before the first step, and before a checkpoint is resumed."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Of its own, to be trained along; asked after `start`."""
        return ()

    def rate(self, name: str, progress: float) -> float:
        """Factor on the learning rate of a parameter by name, progress in 0..1; 0 freezes it, and with it the
        statistics of a batch norm whose weight it is."""
        return 1.0

    def loss(self, run: Run, seen: Seen) -> Tensor | None:
        """A scalar to be added to the loss, the mean over the samples seen."""
        return None

    def settled(self, progress: float) -> bool:
        """Whether a network of this share of the run, 0..1, may be what is returned; early stopping waits for it."""
        return True

    def before_step(self, run: Run) -> None:
        """Gradients are there, weights have not moved."""

    def after_step(self, run: Run) -> None:
        """Weights have moved."""

    def end(self, run: Run) -> None:
        """After the last step; the weights are those that are returned: the last, averaged or best."""

    def state(self) -> dict[str, Any]:
        """Plain values and tensors that a checkpoint must keep, parameters of its own included."""
        return {str(i): value.detach() for i, value in enumerate(self.parameters())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What `state` gave, back in place."""
        with torch.no_grad():
            for i, value in enumerate(self.parameters()):
                value.copy_(state[str(i)])

    def options(self) -> dict[str, Any]:
        """Plain values that say what it does, for lineage and checkpoint."""
        return {}

    def identity(self) -> str:
        """What a checkpoint must know besides, such as the digest of a teacher's weights."""
        return ""


class Hooks:
    """Hooks in a training loop of your own.

    model: changed in place by what hooks do to weights. Put it into training mode yourself. steps: how many you will
    take, for hooks that follow a schedule.

        hooks = Hooks(model, [Distill(teacher), GroupLasso(1e-4)], steps=len(loader) * epochs)
        optimizer = torch.optim.SGD([*model.parameters(), *hooks.parameters()], lr=0.1)
        for x, y in loader:
            outputs = hooks.forward(x)
            loss = hooks.loss(criterion(outputs, y), y)
            optimizer.zero_grad(); loss.backward()
            hooks.before_step(); optimizer.step(); hooks.after_step()
        hooks.end()
    """

    def __init__(self, model: Model, hooks: Sequence[Hook], steps: int):
        if steps < 1:
            raise PacklightError(f"hooks need steps >= 1, got {steps}")
        first = next(model.parameters(), None)
        self.run = Run(model, steps, torch.device("cpu") if first is None else first.device)
        self.hooks = list(hooks)
        for hook in self.hooks:
            hook.start(self.run)
        self._forward = Tapped(model, taps_of(self.hooks))
        self._seen: Seen | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Of the hooks' own, for your optimizer."""
        return [p for hook in self.hooks for p in hook.parameters()]

    def forward(self, *inputs: Tensor) -> Any:
        """The model's output on these inputs, remembered for `loss`."""
        self._forward.train(self.run.model.training)
        outputs, taps = self._forward(*inputs)
        self._seen = Seen(inputs, outputs, None, taps)
        return outputs[0] if len(outputs) == 1 else outputs

    def loss(self, task_loss: Tensor, targets: Tensor | None = None) -> Tensor:
        """Your loss with what the hooks add, for the inputs of the last `forward`."""
        if self._seen is None:
            raise PacklightError("hooks.loss() needs a hooks.forward() before it")
        self._seen.targets = targets
        return total_loss(self.hooks, self.run, self._seen, lambda: task_loss)

    def before_step(self) -> None:
        for hook in self.hooks:
            hook.before_step(self.run)

    def after_step(self) -> None:
        """Call it once an optimizer step."""
        assert self.run.steps is not None
        self.run.step += 1
        self.run.progress = min(1.0, self.run.step / self.run.steps)
        for hook in self.hooks:
            hook.after_step(self.run)

    def end(self) -> None:
        for hook in self.hooks:
            hook.end(self.run)


def taps_of(hooks: Iterable[Hook]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for hook in hooks for name in hook.taps))


def total_loss(hooks: Sequence[Hook], run: Run, seen: Seen, task_loss: Any) -> Tensor:
    """The task's own loss, times every hook's task_weight, plus what hooks add. task_loss: a callable, not asked where
    its weight is 0, so that unlabelled data can be trained on."""
    weight = 1.0
    for hook in hooks:
        weight *= hook.task_weight
    parts = [] if weight == 0 else [task_loss() if weight == 1 else weight * task_loss()]
    parts += [extra for hook in hooks if (extra := hook.loss(run, seen)) is not None]
    if not parts:
        raise PacklightError("there is nothing to train on: the task's loss has weight 0, and no hook adds one")
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

"""The one training loop, on accelerate. Whatever trains in packlight trains here.

The data order is a function of (seed, epoch) and augmentation of (seed, step), so a run that was killed and
resumed from its checkpoint ends with the weights of one that was not (bit for bit on a CPU).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.model import Model, Step
from packlight.model.lineage import digest, options_of
from packlight.model.operators import kind
from packlight.task import ArrayData, Data, Task
from packlight.train.losses import Distillation, distillation_loss, task_loss
from packlight.train.memory import kept_memory

_WARMUP = 0.05
_MOMENTUM = 0.9
CHECKPOINT_EVERY_S = 60.0


@dataclass(frozen=True)
class Fit:
    """How to train.

    epochs: > 0, may be a fraction; passes over the training data. batch: samples a step. learning_rate: the
    peak; it rises linearly over the first 5 % of the steps and falls to 0 along a half cosine. optimizer:
    "sgd" (Nesterov momentum 0.9) or "adamw". weight_decay: on weights with two or more axes only. seed: of data
    order, augmentation and dropout. precision: "fp32" or "bf16" (autocast; weights stay float32).
    channels_last: convolution weights and inputs in that memory format, which CPUs like.
    """

    epochs: float = 1.0
    batch: int = 128
    learning_rate: float = 0.01
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    seed: int = 0
    precision: str = "fp32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch < 1 or self.learning_rate <= 0:
            raise PacklightError(
                f"training needs epochs > 0, batch >= 1 and learning_rate > 0, got {self.epochs}, {self.batch} "
                f"and {self.learning_rate}"
            )
        if self.optimizer not in ("sgd", "adamw") or self.precision not in ("fp32", "bf16"):
            raise PacklightError(
                f"optimizer {self.optimizer!r} with precision {self.precision!r}: choose sgd or adamw, fp32 or bf16"
            )


@dataclass(frozen=True)
class Progress:
    """Told after every step. loss: of this step's batch. rate: steps a second since the start or resumption."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    rate: float


@kept_memory()
def fit(
    model: Model,
    task: Task,
    options: Fit = Fit(),
    *,
    teacher: Model | None = None,
    distillation: Distillation = Distillation(),
    checkpoint: str | Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Model:
    """Train a copy of a Model on a Task's training data and return it, in eval mode.

    teacher: another Model; its class scores are mixed into the loss as `distillation` says.
    checkpoint: a file; written about once a minute and at the end, resumed from when it is there and was made
    by the same model, data and options (another's is an error, never silently used).
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    if any(kind(n) == "quantize" for n in model.nodes):
        raise PacklightError(f"{model.name} is quantized, which has no gradient; train the float Model, then quantize")
    data = task.data("train")
    steps_an_epoch = math.ceil(len(data) / options.batch)
    steps = max(1, round(options.epochs * steps_an_epoch))
    identity = digest([options_of(options), steps, data.fingerprint(), [str(s) for s in model.lineage], model.name,
                       None if teacher is None else [options_of(distillation), teacher.name]])  # fmt: skip
    model = model.copy()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    set_seed(options.seed)
    model.to(accelerator.device)
    if options.channels_last:
        model.graph_module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise PacklightError(f"{model.name} has no parameter that may be trained")
    optimizer = _optimizer(model, options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    forward, optimizer = accelerator.prepare(model.graph_module, optimizer)
    base = task_loss(task.loss)
    if teacher is not None:
        teacher = teacher.copy().eval().to(accelerator.device)

    state = _State(Path(checkpoint) if checkpoint else None, identity, model, optimizer, schedule)
    start = state.resume()
    began = saved = monotonic()
    model.train()
    for step, (inputs, targets) in _steps(data, options, start, steps, steps_an_epoch):
        tensors = _on_device(inputs, task, options, step, accelerator.device)
        labels = None if targets is None else torch.from_numpy(np.ascontiguousarray(targets)).to(accelerator.device)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            outputs = forward(*tensors)
        loss = _loss(outputs, labels, tensors, base, teacher, distillation)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise PacklightError(
                f"training diverged: the loss is {value} at step {step + 1} of {steps} "
                f"(learning rate {optimizer.param_groups[0]['lr']:.3g}); lower learning_rate"
            )
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        done, now = step + 1, monotonic()
        if on_step:
            rate = (done - start) / max(now - began, 1e-9)
            on_step(Progress(done, steps, value, float(schedule.get_last_lr()[0]), rate))
        if now - saved > CHECKPOINT_EVERY_S or done == steps:
            state.save(done)
            saved = now
    if options.channels_last:
        model.graph_module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model = model.to("cpu").eval()
    told = options_of(options) | ({"teacher": teacher.name} | options_of(distillation) if teacher else {})
    return model.with_step(Step("finetune", options=told))


def learning_rate_factor(step: int, steps: int) -> float:
    """Share of the peak rate at a step: linear over the first 5 %, then a half cosine to 0 at `steps`."""
    warm = max(1, round(_WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def _optimizer(model: Model, options: Fit) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate)
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=_MOMENTUM, nesterov=True)


def _steps(
    data: Data, options: Fit, start: int, steps: int, steps_an_epoch: int
) -> Iterator[tuple[int, tuple[tuple[Any, ...], Any]]]:
    """(step, (inputs, targets)) from `start` on; arrays are shuffled by (seed, epoch), loaders shuffle themselves."""
    step = start
    while step < steps:
        epoch, skip = divmod(step, steps_an_epoch)
        began = step
        for batch in _epoch(data, options, epoch, skip):
            yield step, (batch.inputs, batch.targets)
            step += 1
            if step == steps:
                return
        if step == began:
            raise PacklightError(f"the training data ended after {step} of {steps} steps: shorter than it promised")
        step = (epoch + 1) * steps_an_epoch


def _epoch(data: Data, options: Fit, epoch: int, skip: int) -> Iterator[Any]:
    if isinstance(data, ArrayData):
        order = np.random.default_rng((options.seed, epoch)).permutation(len(data))
        for first in range(skip * options.batch, len(data), options.batch):
            yield data.select(np.sort(order[first : first + options.batch]))
        return
    for i, batch in enumerate(data.batches(options.batch)):
        if i >= skip:
            yield batch


def _on_device(inputs: tuple[Any, ...], task: Task, options: Fit, step: int, device: Any) -> tuple[Tensor, ...]:
    tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in inputs]
    if task.augment is not None:
        generator = torch.Generator().manual_seed(hash((options.seed, step)) & 0x7FFFFFFF)
        tensors[0] = task.augment(tensors[0], generator)
    if options.channels_last:
        tensors = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
    return tuple(t.to(device) for t in tensors)


def _loss(
    outputs: tuple[Tensor, ...], labels: Tensor | None, inputs: tuple[Tensor, ...], base: Any,
    teacher: Model | None, distillation: Distillation,
) -> Tensor:  # fmt: skip
    weight = distillation.weight if teacher is not None else 0.0
    total = torch.zeros((), device=outputs[0].device)
    if weight < 1:
        if labels is None:
            raise PacklightError("the training data has no targets; give them, or distil with weight=1")
        total = total + (1 - weight) * base(outputs, labels)
    if teacher is not None:
        with torch.no_grad():
            wanted = teacher.flat(*inputs)[0]
        total = total + weight * distillation_loss(outputs[0], wanted, distillation.temperature)
    return total


class _State:
    """Everything that a run's next step depends on, in one file that holds plain values and tensors only."""

    def __init__(self, path: Path | None, identity: str, model: Model, optimizer: Any, schedule: Any):
        self.path, self.identity = path, identity
        self.model, self.optimizer, self.schedule = model, optimizer, schedule

    def save(self, step: int) -> None:
        if self.path is None:
            return
        state = {
            "identity": self.identity, "step": step, "tensors": self.model.named_tensors(),
            "optimizer": self.optimizer.state_dict(), "schedule": json.dumps(self.schedule.last_epoch),
            "random": torch.get_rng_state(),
        }  # fmt: skip
        temporary = self.path.with_name(self.path.name + ".part")
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            raise PacklightError(f"cannot write checkpoint {self.path}: {error.strerror}") from error

    def resume(self) -> int:
        """Load the checkpoint if there is one; the step to go on from."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, weights_only=True)
            identity, step = state["identity"], int(state["step"])
        except Exception as error:  # a damaged file fails in many ways, weights_only keeps it from running code
            raise PacklightError(f"checkpoint {self.path} is damaged: {error}; delete it to start anew") from error
        if identity != self.identity:
            raise PacklightError(
                f"checkpoint {self.path} is of another model, data or options; delete it or name another"
            )
        with torch.no_grad():
            for name, tensor in self.model.named_tensors().items():
                tensor.copy_(state["tensors"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = json.loads(state["schedule"])
        for group, base in zip(self.optimizer.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = base * self.schedule.lr_lambdas[0](self.schedule.last_epoch)
        torch.set_rng_state(state["random"])
        return step

"""The one training loop, on accelerate's processes. Whatever trains in packlight trains here.

The data order is a function of (seed, epoch) and augmentation of (seed, step), so a run that was killed and
resumed from its checkpoint ends with the weights of one that was not (bit for bit on a CPU).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.files import write_text
from packlight.model import Model, Step
from packlight.model.integers import settle_biases
from packlight.model.lineage import digest, options_of
from packlight.task import Task
from packlight.task.metrics import scored
from packlight.train import norms
from packlight.train import state as checkpoints
from packlight.train.batches import Batches, Whole
from packlight.train.checks import check_fixed_batch, check_inputs, check_place, interruptible, is_out_of_memory
from packlight.train.distill import Distill
from packlight.train.diverged import likely_cause, overflowed
from packlight.train.freezing import Freezing
from packlight.train.hooks import Hook, Run, Seen, taps_of, total_loss
from packlight.train.losses import Distillation, task_loss
from packlight.train.memory import kept_memory
from packlight.train.options import Fit
from packlight.train.processes import Processes, shares
from packlight.train.returned import Returned
from packlight.train.taps import Tapped

_MOMENTUM = 0.9
_NOMINAL = 10_000.0  # positions that a run which only time ends is divided into
_LOGGED = 400  # losses that the log keeps
CHECKPOINT_EVERY_S = 60.0


@dataclass(frozen=True)
class Progress:
    """Told after every step. steps: planned; 0 where time ends the run. loss: of this step's batch. rate: steps a
    second since the start or resumption. left_s: seconds that are left at this rate. share: of the run that is done,
    0..1. validation: the newest score."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    rate: float
    left_s: float = 0.0
    share: float = 0.0
    validation: float | None = None


@kept_memory()
def fit(
    model: Model,
    task: Task,
    options: Fit = Fit(),
    *,
    teacher: Model | Callable[..., Any] | None = None,
    distillation: Distillation = Distillation(),
    hooks: Sequence[Hook] = (),
    checkpoint: str | Path | None = None,
    log: str | Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Model:
    """Train a copy of a Model on a Task's training data and return it, in eval mode.

    A quantized Model is trained as it will run: through its quantizers, whose scales stay, with straight-through
    gradients. teacher: another Model, or a callable from the input tensors to class scores; they are mixed into the
    loss as `distillation` says. hooks: what else joins the run. checkpoint: a file; written about once a minute, at the
    end, on Ctrl-C and before a step that would diverge; resumed from when it is there and was made by the same model,
    data and options (another's is an error, never silently used). log: a JSON-lines file of losses and scores.
    Under torchrun every process calls this with the same arguments and gets the same Model.
    """
    if teacher is not None:
        hooks = [*hooks, Distill(teacher, distillation)]
    training = _Training(model, task, options, list(hooks), checkpoint, log)
    with interruptible() as interrupted:
        training.run(on_step, interrupted)
    return training.result()


class _Training:
    """A run in progress."""

    def __init__(
        self, model: Model, task: Task, options: Fit, hooks: list[Hook],
        checkpoint: str | Path | None, log: str | Path | None,
    ):  # fmt: skip
        self.task, self.options, self.hooks = task, options, hooks
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.log_path = Path(log) if log else None
        for path in (self.checkpoint, self.log_path):
            check_place(path)
        self.batches = Batches(task, options)
        if options.engine.patience is not None:
            task.data("validation")
        steps = options.steps(self.batches.an_epoch)
        self.identity = "" if checkpoint is None else self._identity(model, steps)
        self.processes = Processes()
        device = self.processes.device
        self.engine = options.engine
        if self.engine.precision == "fp16" and device.type == "cpu":
            raise PacklightError("fp16 training needs a GPU; on a CPU choose bf16 or fp32")
        self.model = model.copy().to(device).eval()
        torch.manual_seed(options.seed + self.processes.rank)
        if self.engine.channels_last:
            self.model.graph_module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.run_seen = Run(self.model, steps, device, data=self.batches.data)
        for hook in hooks:
            hook.start(self.run_seen)
        self.forward = Tapped(self.model, taps_of(hooks))
        norms.synchronise(self.forward.model, self.processes.alone)
        self.forward.train()
        self.freezing = Freezing(self.model, self.forward.model, hooks)
        self.groups = self._groups()
        self.parameters = [p for g in self.groups for p in g["params"]]
        if not self.parameters:
            raise PacklightError(f"{model.name} has no parameter that may be trained")
        self.optimizer = self._optimizer()
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.engine.precision == "fp16")
        self.base = task_loss(task.loss)
        self.parts = self.engine.accumulate
        self.returned = Returned(self.model, self.engine)
        self.score: float | None = None
        self.elapsed = 0.0
        self.rows: list[dict[str, Any]] = []

    def _identity(self, model: Model, steps: int | None) -> str:
        """Of everything that decides what a run does."""
        told = [[type(h).__name__, h.options(), h.identity()] for h in self.hooks]
        data = self.batches.data.fingerprint()
        weights = model.fingerprint()
        return digest([options_of(self.options), steps, data, *map(str, model.lineage), model.name, weights, told])

    # the way through a run

    def run(self, on_step: Callable[[Progress], None] | None, interrupted: threading.Event) -> None:
        run, steps = self.run_seen, self.run_seen.steps
        self._resume()
        began = saved = monotonic()
        start, before = run.step, self.elapsed
        batches = self.batches.after(start)
        if self._ended():
            self._save()  # a log that an earlier run did not write
        while not self._ended():
            self._set_rates()
            whole = next(batches)
            if run.step == start:
                check_inputs(self.model, whole)
            loss = self._step(whole)
            now = monotonic()
            run.step, self.elapsed = run.step + 1, before + now - began
            run.progress = self._progress()
            for hook in self.hooks:
                hook.after_step(run)
            self._follow(loss)
            if on_step:
                rate = (run.step - start) / max(now - began, 1e-9)
                left = (1 - run.progress) / max(run.progress, 1e-9) * self.elapsed
                on_step(Progress(run.step, steps or 0, loss, run.learning_rate, rate, left, run.progress, self.score))
            told = self.processes.together((interrupted.is_set(), now - saved > CHECKPOINT_EVERY_S))
            stop, due = (any(column) for column in zip(*told, strict=True))  # saving waits for all processes
            if due or stop or self._ended():
                self._save()
                saved = now
            if stop:
                raise KeyboardInterrupt

    def result(self) -> Model:
        self.returned.settle()
        for hook in self.hooks:
            hook.end(self.run_seen)
        if self.engine.channels_last:
            self.model.graph_module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.freezing.thaw()
        made = settle_biases(self.model.to("cpu"))
        told = _in_short(self.options)
        for hook in self.hooks:
            told |= hook.options()
        return made.with_step(Step("finetune", options=told))

    def _ended(self) -> bool:
        return self.returned.stopped or self.run_seen.progress >= 1

    def _progress(self) -> float:
        run, limit = self.run_seen, self.options.schedule.time_s
        by_step = 0.0 if run.steps is None else run.step / run.steps
        by_time = 0.0 if limit is None else max(self.processes.together(self.elapsed)) / limit
        return min(1.0, max(by_step, by_time))

    def _set_rates(self) -> None:
        """The learning rate of the step to come, and what is frozen in it."""
        run, schedule = self.run_seen, self.options.schedule
        whole = float(run.steps) if run.steps is not None and schedule.time_s is None else _NOMINAL
        position = float(run.step) if run.steps is not None and schedule.time_s is None else run.progress * whole
        run.learning_rate = self.options.learning_rate * schedule.factor(position, whole)
        self.freezing.update(run.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = run.learning_rate * self.freezing.factor(group["name"])

    # a step

    def _step(self, whole: Whole) -> float:
        """Move the weights once; the loss over the whole batch."""
        while True:
            state = torch.get_rng_state() if self.engine.halve else None
            try:
                loss = self._gradients(whole)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    check_fixed_batch(self.model, len(whole.inputs[0]), self.parts * self.processes.count, error)
                    raise
                self._more_parts(len(whole.inputs[0]))
                if state is not None:
                    torch.set_rng_state(state)
        if self._check(loss, whole):
            for hook in self.hooks:
                hook.before_step(self.run_seen)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.returned.follow()
        return loss

    def _gradients(self, whole: Whole) -> float:
        total = torch.zeros((), device=self.processes.device)
        for part in whole.parts(self.processes.rank, self.processes.count, self.parts):
            inputs = tuple(self._laid_out(x) for x in part.inputs)
            targets = None if part.targets is None else part.targets.to(self.processes.device)
            with self._autocast():
                outputs, taps = self.forward(*inputs)
                seen = Seen(inputs, outputs, targets, taps, part.index)
                loss = total_loss(self.hooks, self.run_seen, seen, lambda: self._task_loss(outputs, targets))  # noqa: B023
            loss = loss if part.weight == 1 else loss * part.weight
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        self.processes.sum_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        return float(self.processes.sum(total))

    def _task_loss(self, outputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        if targets is None:
            raise PacklightError("the training data has no targets; give them, or distil with weight=1")
        return self.base(outputs, targets)

    def _laid_out(self, x: Tensor) -> Tensor:
        if self.engine.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x.to(self.processes.device)

    def _autocast(self) -> Any:
        dtype = torch.float16 if self.engine.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.processes.device.type, dtype, enabled=self.engine.precision != "fp32")

    def _check(self, loss: float, whole: Whole) -> bool:
        """Clip the gradient; where it or the loss is no number, stop before it reaches the weights. Whether the
        gradient is finite: with loss scaling, a step that is not is left out."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
        if self.engine.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.engine.clip, torch.tensor(norm))
        if np.isfinite(loss) and (np.isfinite(norm) or self.scaler.is_enabled()):
            return bool(np.isfinite(norm))
        self.optimizer.zero_grad()
        good = overflowed(self.model) is None
        if good:
            self._save()
        what = f"the loss is {loss}" if not np.isfinite(loss) else "its gradient is not finite"
        which = "the weights before it" if good else "earlier ones"
        kept = f"; {which} are in {self.checkpoint}" if self.checkpoint else ""
        cause = likely_cause(self.forward.model, [self._laid_out(x) for x in whole.inputs])
        raise PacklightError(
            f"training diverged at step {self.run_seen.step + 1} of {self.run_seen.steps or 'a timed run'}: {what} "
            f"(learning rate {self.run_seen.learning_rate:.3g}); {cause}{kept}"
        )

    def _more_parts(self, samples: int) -> None:
        """Out of memory: compute a batch in twice as many parts, or say so."""
        self.optimizer.zero_grad()
        mine = max(1, samples // self.processes.count)
        fits = max(1, mine // self.parts // 2)
        if not self.engine.halve or self.parts >= mine or not self.processes.alone:
            raise PacklightError(
                f"out of memory with {max(1, mine // self.parts)} samples at once; Engine(accumulate={2 * self.parts}) "
                f"computes the same batch {fits} samples at a time, or choose batch={samples // 2}"
            )
        self.parts *= 2
        if self.processes.device.type == "cuda":
            torch.cuda.empty_cache()

    # what is followed along the way

    def _follow(self, loss: float) -> None:
        run = self.run_seen
        every = max(1, (run.steps or run.step) // _LOGGED)
        if run.step % every == 0 or self._ended():
            self.rows.append({"step": run.step, "epoch": round(run.step / self.batches.an_epoch, 4), "loss": loss,
                              "learning_rate": run.learning_rate, "seconds": round(self.elapsed, 3)})  # fmt: skip
        if self.engine.patience and (run.step % self.batches.an_epoch == 0 or self._ended()):
            self._validate()

    def _validate(self) -> None:
        """Score the weights that would be returned now."""
        metric = self.task.measure_with
        with self.returned.in_place():
            self.score = self._score()
        self.rows.append({"step": self.run_seen.step, "validation": self.score, "metric": metric.name})
        if all(hook.settled(self.run_seen.progress) for hook in self.hooks):
            self.returned.judge(self.score, metric)

    def _score(self) -> float:
        """The task's metric over the validation data, each process its share. A network with a fixed batch size is fed
        that size, filled up by repetition."""
        data, metric, fixed = self.task.data("validation"), self.task.measure_with, self.model.fixed_batch
        rows = []
        mine = shares(len(data), self.processes.rank, self.processes.count)
        first = 0
        self.forward.train(False)
        try:
            for batch in data.batches(fixed or self.options.batch):
                where = [i - first for i in range(first, first + len(batch)) if i in mine]
                first += len(batch)
                if where and batch.targets is not None:
                    index = np.resize(where, fixed or len(where))
                    given = (torch.from_numpy(np.ascontiguousarray(x[index])) for x in batch.inputs)
                    inputs = tuple(self._laid_out(x) for x in given)
                    with torch.no_grad(), self._autocast():
                        outputs, _ = self.forward(*inputs)
                    answers = tuple(o[: len(where)].float().cpu().numpy() for o in outputs)
                    rows.append(scored(metric, answers, batch.targets[where]))
        finally:
            self.forward.train()
            self.freezing.settle_norms()
        whole = [r for part in self.processes.together(rows) for r in part]
        if not whole:
            raise PacklightError("early stopping needs labelled validation data; give Task(validation=(x, y))")
        return float(metric.aggregate(np.concatenate(whole)))

    # making and keeping

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters for the optimizer: one group a parameter where hooks set rates of their own, else two."""
        groups: dict[Any, dict[str, Any]] = {}
        own = [("", p) for hook in self.hooks for p in hook.parameters()]
        for name, parameter in [*self.model.named_parameters(), *own]:
            if parameter.requires_grad:
                decays, alone = parameter.dim() >= 2, name if self.freezing.any else ""
                decay = self.options.weight_decay if decays else 0.0
                group = groups.setdefault((alone, decays), {"params": [], "weight_decay": decay, "name": alone})
                group["params"].append(parameter)
        return [groups[key] for key in sorted(groups, key=lambda key: (key[0], not key[1]))]

    def _optimizer(self) -> torch.optim.Optimizer:
        if self.options.optimizer == "adamw":
            return torch.optim.AdamW(self.groups, lr=self.options.learning_rate)
        return torch.optim.SGD(self.groups, lr=self.options.learning_rate, momentum=_MOMENTUM, nesterov=True)

    def _save(self) -> None:
        if self.processes.main:
            if self.checkpoint is not None:
                checkpoints.write(self.checkpoint, self._state())
            if self.log_path is not None:
                write_text(self.log_path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self.processes.wait()

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.identity, "step": self.run_seen.step, "elapsed": self.elapsed, "parts": self.parts,
            "tensors": {n: t.detach() for n, t in self.model.named_tensors().items()},
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "returned": self.returned.state(), "score": self.score, "rows": json.dumps(self.rows),
            "hooks": [hook.state() for hook in self.hooks], "random": torch.get_rng_state(),
        }  # fmt: skip

    def _resume(self) -> None:
        found = checkpoints.read(self.checkpoint, self.identity)
        if found is None:
            return
        with torch.no_grad():
            for name, tensor in self.model.named_tensors().items():
                tensor.copy_(found["tensors"][name])
        self.optimizer.load_state_dict(found["optimizer"])
        self.scaler.load_state_dict(found["scaler"])
        for name in ("elapsed", "parts", "score"):
            setattr(self, name, found[name])
        self.returned.restore(found["returned"], self.processes.device)
        for hook, state in zip(self.hooks, found["hooks"], strict=True):
            hook.restore(state)
        self.rows = json.loads(found["rows"])
        self.run_seen.step = int(found["step"])
        self.run_seen.progress = self._progress()
        if self.processes.alone:
            torch.set_rng_state(found["random"])


def _in_short(options: Fit) -> dict[str, Any]:
    """The options for the lineage; of schedule and engine, what is not the default."""
    told, default = options_of(options), options_of(Fit())
    for name in ("schedule", "engine"):
        told[name] = {key: value for key, value in told[name].items() if value != default[name][key]}
    return told

"""How a run is trained, as values: what is learnt with (Fit), how the rate goes (Schedule), by what means (Engine)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from packlight.errors import PacklightError

_OPTIMIZERS = ("sgd", "adamw")
_PRECISIONS = ("fp32", "bf16", "fp16")
_DROPS_AT, _DROP = (0.5, 0.75), 0.1  # of "step": He et al. 2015, section 4.2


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes, and when the run ends if not by epochs.

    kind: after the warm-up, "cosine" (a half cosine to 0), "linear" (to 0), "step" (a tenth at half of the run, a
    hundredth at three quarters) or "constant". warmup: share of the run in which the rate rises linearly to its peak,
    in [0, 1). steps: >= 1, instead of `Fit.epochs`. time_s: > 0, seconds of training after which the run ends, if it
    has not before; the rate then follows the clock, and a run is no longer the same twice.
    """

    kind: str = "cosine"
    warmup: float = 0.05
    steps: int | None = None
    time_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _SHAPES or not 0 <= self.warmup < 1:
            raise PacklightError(
                f"a schedule needs a kind ({', '.join(_SHAPES)}) and warmup in [0, 1), got {self.kind!r}, {self.warmup}"
            )
        if (self.steps is not None and self.steps < 1) or (self.time_s is not None and not self.time_s > 0):
            raise PacklightError(f"a schedule needs steps >= 1 and time_s > 0, got {self.steps} and {self.time_s}")

    def factor(self, position: float, total: float) -> float:
        """Share of the peak rate at a position in [0, total]: steps, or any other measure of the way."""
        warm = max(1.0, round(self.warmup * total)) if self.warmup else 0.0
        if position < warm:
            return (position + 1) / warm
        return _SHAPES[self.kind](min(1.0, (position - warm) / max(1.0, total - warm)))


_SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "step": lambda done: _DROP ** sum(done >= at for at in _DROPS_AT),
    "constant": lambda done: 1.0,
}


@dataclass(frozen=True)
class Engine:
    """By what means a run is computed; results differ to rounding, but for `ema` and `patience`.

    precision: "fp32", "bf16" (autocast; weights stay float32) or "fp16" (GPU only; with loss scaling). channels_last:
    weights and inputs of convolutions in that memory format, which CPUs like. accumulate: >= 1, parts that a batch is
    computed in to save memory (batch norms see a part at a time). clip: > 0, the largest norm of the gradient; None: no
    limit. ema: in (0, 1), the weights returned are an exponential moving average that keeps this share each step; None:
    the last weights. patience: >= 1, epochs without a better validation score after which the run ends with the best
    weights; None: no validation. halve: out of memory doubles `accumulate` instead of ending the run.
    """

    precision: str = "fp32"
    channels_last: bool = False
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    patience: int | None = None
    halve: bool = False

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise PacklightError(f"precision {self.precision!r}: choose {', '.join(_PRECISIONS)}")
        wrong = {
            "accumulate": self.accumulate < 1, "clip": self.clip is not None and not self.clip > 0,
            "ema": self.ema is not None and not 0 < self.ema < 1,
            "patience": self.patience is not None and self.patience < 1,
        }  # fmt: skip
        for name in (n for n, bad in wrong.items() if bad):
            raise PacklightError(f"Engine({name}={getattr(self, name)}) is out of range; see its documentation")


@dataclass(frozen=True)
class Fit:
    """How to train.

    epochs: > 0, may be a fraction; passes over the training data. batch: samples a step, over all processes.
    learning_rate: the peak. optimizer: "sgd" (Nesterov momentum 0.9) or "adamw". weight_decay: on weights with two or
    more axes only. seed: >= 0, of data order, augmentation and dropout.
    """

    epochs: float = 1.0
    batch: int = 128
    learning_rate: float = 0.01
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    seed: int = 0
    schedule: Schedule = Schedule()
    engine: Engine = Engine()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise PacklightError(f"training needs a seed >= 0, got {self.seed}")
        if not self.epochs > 0 or self.batch < 1 or not 0 < self.learning_rate < math.inf or self.weight_decay < 0:
            raise PacklightError(
                f"training needs epochs > 0, batch >= 1, learning_rate > 0 and weight_decay >= 0, got {self.epochs}, "
                f"{self.batch}, {self.learning_rate} and {self.weight_decay}"
            )
        if self.optimizer not in _OPTIMIZERS:
            raise PacklightError(f"optimizer {self.optimizer!r}: choose {' or '.join(_OPTIMIZERS)}")
        if math.isinf(self.epochs) and self.schedule.steps is None and self.schedule.time_s is None:
            raise PacklightError("endless epochs need an end: Schedule(steps=…) or Schedule(time_s=…)")

    def steps(self, steps_an_epoch: int) -> int | None:
        """Steps until the run ends; None where only time ends it."""
        if self.schedule.steps is not None:
            return self.schedule.steps
        return None if math.isinf(self.epochs) else max(1, round(self.epochs * steps_an_epoch))


def from_mapping(kind: type[Any], given: Mapping[str, Any], where: str) -> Any:
    """An options dataclass from plain values, as a YAML file has them; unknown names are refused by name."""
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(given) - set(known), key=str):
        raise PacklightError(f"{where}: no option {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    inner = {"schedule": Schedule, "engine": Engine}
    values = dict(given)
    for name in inner.keys() & {n for n, value in given.items() if isinstance(value, Mapping)}:
        values[name] = from_mapping(inner[name], given[name], f"{where}.{name}")
    check_types(kind, values, where)
    try:
        return kind(**values)
    except TypeError as error:  # a value of another type than the range checks take
        raise PacklightError(f"{where}: {error}") from error


def check_types(kind: Callable[..., Any], given: Mapping[str, Any], where: str) -> None:
    """Raise PacklightError where a value is not of the type that a dataclass or a class's __init__ declares for it.
    A whole number may stand for a float; a sequence is not looked into."""
    hints = get_type_hints(kind if is_dataclass(kind) else kind.__init__)
    for name, value in given.items():
        several = get_origin(hints[name]) in (Union, UnionType)
        allowed = [get_origin(t) or t for t in (get_args(hints[name]) if several else (hints[name],))]
        fits = [t for t in allowed if isinstance(value, (int, float) if t is float else t)]
        if not fits or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join(_TYPES.get(t, t.__name__) for t in allowed)
            hint = "; YAML reads 1e-3 as text, write 1.0e-3" if float in allowed and isinstance(value, str) else ""
            raise PacklightError(f"{where}: {name} is {names}, got {value!r}{hint}")


_TYPES: dict[type, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list", NoneType: "nothing",
    Schedule: "a mapping", Engine: "a mapping", Mapping: "a mapping",
}  # fmt: skip

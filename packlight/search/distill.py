"""A student with a teacher beside the same student without: what the teacher was worth, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.model import Model
from packlight.task import Task
from packlight.train import Distill, Distillation, Feature, Fit, Progress, fit


@dataclass(frozen=True)
class Distilled:
    """What `distill` found.

    model: the student that followed the teacher. control: the same without it; None where it was not wanted or there
    are no labels. quality: of "teacher", "distilled" and "control" on `split`. gain: distilled less control, paired, in
    the metric's units, positive is better. seconds: of "distilled" and "control"; teacher_s: what the teacher took of
    the former.
    """

    model: Model
    control: Model | None
    split: str
    quality: dict[str, Measurement]
    gain: Measurement | None
    seconds: dict[str, float]
    teacher_s: float

    def as_json(self) -> dict[str, Any]:
        return {
            "model": repr(self.model), "split": self.split,
            "quality": {k: m.as_json() for k, m in self.quality.items()},
            "gain": None if self.gain is None else self.gain.as_json(), "seconds": self.seconds,
            "teacher_s": self.teacher_s,
        }  # fmt: skip


def distill(
    student: Model, teacher: Model | Callable[..., Any], task: Task, options: Fit, how: Distillation,
    *, features: Sequence[Feature] = (), control: bool = True, on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Distilled:  # fmt: skip
    """Train a student after a teacher, and once more from the same weights in the same way without."""
    split = "test" if task.test is not None else "validation"
    hook = Distill(teacher, how, features)
    on_stage("training the student with its teacher")
    began = monotonic()
    model = fit(student, task, options, hooks=[hook], on_step=on_step)
    seconds = {"distilled": monotonic() - began}
    beside = None
    if control and how.weight < 1:
        on_stage("training the control, without the teacher")
        began = monotonic()
        beside = fit(student, task, options, on_step=on_step)
        seconds["control"] = monotonic() - began
    networks = {"distilled": model, "control": beside, "teacher": teacher if isinstance(teacher, Model) else None}
    scores = {name: evaluate(net, task, split) for name, net in networks.items() if net is not None}
    gain = scores["control"].drop_from(scores["distilled"]) if beside is not None else None
    quality = {name: s.measurement for name, s in scores.items()}
    return Distilled(model, beside, split, quality, gain, seconds, hook.teacher_s)

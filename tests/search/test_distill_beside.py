"""A student with its control."""

from __future__ import annotations

import pytest
from small_tasks import digits, trained

import packlight as pl
from packlight.errors import PacklightError
from packlight.task import Task


@pytest.fixture(scope="module")
def found():
    return pl.distill(trained(), digits(), student="resnet8", width=0.3,
                      options=pl.Fit(epochs=3, batch=64, learning_rate=0.1))  # fmt: skip


def test_the_gain_is_the_difference_of_student_and_control(found) -> None:
    quality = {name: m.value for name, m in found.quality.items()}
    assert set(quality) == {"distilled", "control", "teacher"} and min(quality.values()) > 50
    assert found.gain.value == pytest.approx(quality["distilled"] - quality["control"], abs=1e-6)
    assert found.gain.low <= found.gain.value <= found.gain.high
    assert found.split == "test" and 0 < found.teacher_s < found.seconds["distilled"]
    assert found.model.lineage[-1].options["kind"] == "kd" and "kind" not in found.control.lineage[-1].options


def test_both_start_from_the_same_weights_and_the_student_is_small(found) -> None:
    def params(net: pl.Model) -> int:
        return pl.statistics(net).params

    assert params(found.model) == params(found.control) < 10_000


def test_without_labels_there_is_no_control() -> None:
    task = digits()
    unlabelled = Task("x", train=task.train.inputs[0], test=task.test)
    made = pl.distill(trained(), unlabelled, width=0.2, options=pl.Fit(epochs=0.5, batch=64),
                      distillation=pl.Distillation(weight=1.0))  # fmt: skip
    assert made.control is None and made.gain is None and made.as_json()["gain"] is None


def test_a_student_that_is_not_known_is_one_clear_error() -> None:
    with pytest.raises(PacklightError, match=r"resnet9.*resnet8"):
        pl.distill(trained(), digits(), student="resnet9")

"""A teacher in a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nets import digits, model, same
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.task import Task
from packlight.train import Distill, Distillation, Feature, Fit, Run, fit
from packlight.train.distill import _Answers

SHORT = Fit(epochs=2, batch=64, learning_rate=0.05)


@pytest.fixture(scope="module")
def teacher(task: Task) -> pl.Model:
    return fit(model(), task, Fit(epochs=4, batch=64, learning_rate=0.1))


class Counting:
    """A teacher that is any callable, and how many samples it was asked about."""

    def __init__(self, teacher: pl.Model):
        self.teacher, self.asked = teacher, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.teacher(x)


KINDS = {
    "kd": Distillation(kind="kd"), "dist": Distillation(1.0, kind="dist"), "dkd": Distillation(kind="dkd"),
    "standardized": Distillation(2.0, standardize=True),
}  # fmt: skip


@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS)
def test_every_kind_makes_a_student_that_agrees_with_its_teacher(task: Task, teacher: pl.Model, how) -> None:
    recipe = Fit(epochs=4, batch=64, learning_rate=0.02 if how.kind == "dkd" else 0.1)
    student = fit(model(width=8), task, recipe, teacher=teacher, distillation=how)
    assert evaluate(student, task).agreement_with(evaluate(teacher, task)).value > 85


def test_a_teacher_is_asked_once_about_each_sample_that_is_not_augmented(task: Task, teacher: pl.Model) -> None:
    counting = Counting(teacher)
    followed = fit(model(width=8), task, SHORT, teacher=counting)
    assert counting.asked == 1200
    assert same(followed, fit(model(width=8), task, SHORT, teacher=teacher))


def test_augmented_samples_are_asked_about_each_time(teacher: pl.Model) -> None:
    counting = Counting(teacher)
    fit(model(width=8), digits(lambda x, generator: x + 0.01), SHORT, teacher=counting)
    assert counting.asked == 2400


def test_answers_on_disk_serve_later_runs_and_only_that_teacher(task, teacher, tmp_path: Path) -> None:
    first = Distill(teacher, cache=tmp_path / "answers")
    whole = fit(model(width=8), task, SHORT, hooks=[first])
    assert len(list(tmp_path.glob("answers-*.npy"))) == 2
    again = Distill(teacher, cache=tmp_path / "answers")
    again._run = lambda inputs: pytest.fail("the teacher was asked")
    assert same(whole, fit(model(width=8), task, SHORT, hooks=[again]))
    fit(model(width=8), task, SHORT, hooks=[Distill(model(), cache=tmp_path / "answers")])
    assert len(list(tmp_path.glob("answers-*.npy"))) == 4


def test_damaged_answers_are_one_clear_error(task, teacher, tmp_path: Path) -> None:
    fit(model(width=8), task, SHORT, hooks=[Distill(teacher, cache=tmp_path / "answers")])
    for path in tmp_path.glob("answers-*.npy"):
        path.write_bytes(b"nothing")
    with pytest.raises(PacklightError, match="damaged"):
        fit(model(width=8), task, SHORT, hooks=[Distill(teacher, cache=tmp_path / "answers")])


def test_answers_of_another_number_of_samples_are_damaged(task, teacher, tmp_path: Path) -> None:
    fit(model(width=8), task, SHORT, hooks=[Distill(teacher, cache=tmp_path / "answers")])
    (known,) = tmp_path.glob("answers-*.known.npy")
    np.save(known, np.ones(3, bool))
    with pytest.raises(PacklightError, match="of 1200 and 3 samples, the data has 1200"):
        fit(model(width=8), task, SHORT, hooks=[Distill(teacher, cache=tmp_path / "answers")])


@pytest.mark.parametrize("kind", ["hint", "attention"])
def test_a_student_learns_a_layer_of_its_teacher(task: Task, teacher: pl.Model, kind: str) -> None:
    """By the feature alone: neither labels nor class scores are in the loss."""
    feature = Feature("2", "2", kind, weight=10.0)
    hook = Distill(teacher, Distillation(weight=0.0), [feature])
    hook.task_weight = 0.0
    losses: list[float] = []
    fit(model(width=8), task, Fit(epochs=3, batch=64, learning_rate=0.02), hooks=[hook],
        on_step=lambda p: losses.append(p.loss))  # fmt: skip
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


class Attending(nn.Module):
    """One attention over the eight rows of an image."""

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, width) for _ in range(3))
        self.head = nn.Linear(8 * width, 10)

    def forward(self, x):
        x = x.squeeze(1)
        mixed = torch.nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.head(mixed.flatten(1))


def attending(width: int, seed: int) -> pl.Model:
    torch.manual_seed(seed)
    return pl.load(Attending(width), torch.zeros(2, 1, 8, 8))


def test_relations_go_from_a_wide_attention_to_a_narrow_one(task: Task) -> None:
    features = [Feature(name, name, "relation", weight=5.0, heads=4) for name in ("query", "key", "value")]
    hook = Distill(attending(32, 0), Distillation(weight=0.0), features)
    hook.task_weight = 0.0
    losses: list[float] = []
    fit(attending(16, 1), task, Fit(epochs=3, batch=64, learning_rate=0.05), hooks=[hook],
        on_step=lambda p: losses.append(p.loss))  # fmt: skip
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])


def test_a_run_with_a_learned_projection_resumes_with_it(task, teacher, tmp_path: Path, monkeypatch) -> None:
    from packlight.train import loop

    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)

    def hooks():
        return [Distill(teacher, features=[Feature("2", "2")])]

    def stop(progress) -> None:
        if progress.step == 13:
            raise KeyboardInterrupt

    whole = fit(model(width=8), task, SHORT, hooks=hooks())
    with pytest.raises(KeyboardInterrupt):
        fit(model(width=8), task, SHORT, hooks=hooks(), checkpoint=tmp_path / "c", on_step=stop)
    assert same(whole, fit(model(width=8), task, SHORT, hooks=hooks(), checkpoint=tmp_path / "c"))


@pytest.mark.parametrize(
    ("features", "told"),
    [
        pytest.param([Feature("nowhere", "2")], "no layer matches 'nowhere'", id="no such layer of the student"),
        pytest.param([Feature("2", "nowhere")], "no layer matches 'nowhere'", id="no such layer of the teacher"),
        pytest.param([Feature("2", "6")], "features alike", id="a map for a vector"),
        pytest.param([Feature("2", "2", "relation")], "places, channels", id="relations of maps"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_the_first_step(task, teacher, features, told) -> None:
    with pytest.raises(PacklightError, match=told):
        Distill(teacher, features=features).start(Run(model(width=8), 1))


def test_features_need_a_teacher_with_layers(teacher: pl.Model) -> None:
    with pytest.raises(PacklightError, match="must be a packlight Model"):
        Distill(Counting(teacher), features=[Feature("2", "2")])


def test_the_lineage_says_who_the_teacher_was(task: Task, teacher: pl.Model) -> None:
    options = fit(model(width=8), task, Fit(epochs=0.1), teacher=teacher).lineage[-1].options
    assert options["teacher"] == "net" and options["temperature"] == 4.0


def test_answers_on_disk_are_of_a_torch_modules_weights_not_of_its_layers(task: Task, tmp_path: Path) -> None:
    """Two modules of the same layers print alike."""
    for width, seed in ((4, 0), (4, 1)):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(width * 36, 10)).eval()
        fit(model(width=8), task, Fit(epochs=0.1), hooks=[Distill(module, cache=tmp_path / "answers")])
    assert len(list(tmp_path.glob("answers-*.npy"))) == 4


def test_answers_on_disk_of_a_function_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PacklightError, match="known by the teacher's weights"):
        Distill(lambda x: x, cache=tmp_path / "answers")


def test_whoever_makes_the_file_of_answers_second_takes_the_first_ones(tmp_path: Path) -> None:
    """Processes of a run share the files; one made anew would empty those that others write to."""
    one, two = (_Answers(tmp_path / "answers", "same", 4) for _ in range(2))
    assert one.get([0]) is None and two.get([0]) is None
    one.put([0, 1], np.ones((2, 3), np.float32))
    two.put([2], np.full((1, 3), 2, np.float32))
    assert one.get([0, 1, 2]).tolist() == two.get([0, 1, 2]).tolist() == [[1] * 3, [1] * 3, [2] * 3]
    assert one.get([3]) is None


def test_a_callable_that_gives_no_tensor_is_one_clear_error(task: Task, teacher: pl.Model) -> None:
    with pytest.raises(PacklightError, match="must return a tensor of class scores, got dict"):
        fit(model(), task, SHORT, teacher=lambda x: {"logits": teacher(x)})


def test_a_layer_that_gives_several_tensors_cannot_be_followed() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.last = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x):
            return self.last(self.cell(x)[0][:, 0])

    net = pl.load(Recurrent(), torch.zeros(2, 6, 4))
    with pytest.raises(PacklightError, match="layer 'cell' gives several tensors"):
        Distill(net, features=[Feature("cell", "cell")]).start(Run(net, 1))

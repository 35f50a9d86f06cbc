"""The training loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import model, same
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.task import Task
from packlight.train import Distillation, Engine, Fit, Progress, Schedule, fit, loop
from packlight.train.losses import distillation_loss


@pytest.fixture(scope="module")
def fresh() -> pl.Model:
    return model()


@pytest.fixture(scope="module")
def trained(fresh: pl.Model, task: Task) -> pl.Model:
    return fit(fresh, task, Fit(epochs=4, batch=64, learning_rate=0.1))


def test_training_learns_digits_and_leaves_the_given_model_alone(
    fresh: pl.Model, trained: pl.Model, task: Task
) -> None:
    assert same(fresh, model())
    assert evaluate(fresh, task).measurement.value < 30
    assert evaluate(trained, task).measurement.value > 85
    assert not trained.training and trained.lineage[-1].name == "finetune"


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(fresh: pl.Model, task: Task) -> None:
    short = Fit(epochs=0.5, batch=64, seed=3)
    assert same(fit(fresh, task, short), fit(fresh, task, short))
    assert not same(fit(fresh, task, short), fit(fresh, task, Fit(epochs=0.5, batch=64, seed=4)))


def test_batch_norm_statistics_are_trained(fresh: pl.Model, trained: pl.Model) -> None:
    assert not torch.equal(fresh.named_tensors()["1.running_mean"], trained.named_tensors()["1.running_mean"])


@pytest.mark.parametrize("options", [Fit(engine=Engine("bf16")), Fit(engine=Engine(channels_last=True)),
                                     Fit(epochs=1, optimizer="adamw", learning_rate=0.003)],
                         ids=["bf16", "channels last", "adamw"])  # fmt: skip
def test_every_way_of_training_lowers_the_loss(fresh: pl.Model, task: Task, options: Fit) -> None:
    losses: list[float] = []
    made = fit(fresh, task, options, on_step=lambda p: losses.append(p.loss))
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert all(t.dtype != torch.bfloat16 and t.is_contiguous() for t in made.named_tensors().values())


def test_the_rate_rises_then_falls_to_zero() -> None:
    factors = [Schedule().factor(s, 100) for s in range(100)]
    assert factors[0] == pytest.approx(0.2) and factors[4] == 1.0 and factors[5] == 1.0
    assert factors[-1] < 1e-3 and all(a >= b for a, b in pairwise(factors[5:]))
    assert Schedule().factor(0, 1) == 1.0


def test_distillation_loss_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    p = torch.softmax(teacher / 2, 1)
    wanted = 4 * float((p * (p / 0.5).log()).sum())
    assert float(distillation_loss(student, teacher, 2.0)) == pytest.approx(wanted, rel=1e-6)
    assert float(distillation_loss(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-7)


def test_a_student_follows_its_teacher_without_any_label(fresh: pl.Model, trained: pl.Model, task: Task) -> None:
    unlabelled = Task("unlabelled", train=task.train.inputs[0], test=task.test)
    student = fit(fresh, unlabelled, Fit(epochs=4, batch=64, learning_rate=0.1), teacher=trained,
                  distillation=Distillation(weight=1.0))  # fmt: skip
    agreement = evaluate(student, task).agreement_with(evaluate(trained, task))
    assert agreement.value > 85


def test_unlabelled_data_without_a_teacher_is_an_error(fresh: pl.Model, task: Task) -> None:
    with pytest.raises(PacklightError, match="no targets"):
        fit(fresh, Task(train=task.train.inputs[0]), Fit(epochs=0.1))


def test_a_teacher_with_other_classes_is_an_error(fresh: pl.Model, task: Task) -> None:
    other = pl.load(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), torch.zeros(2, 1, 8, 8))
    with pytest.raises(PacklightError, match="they must match"):
        fit(fresh, task, Fit(epochs=0.1), teacher=other)


def test_divergence_stops_at_once_and_says_where(fresh: pl.Model, task: Task) -> None:
    with pytest.raises(PacklightError, match=r"diverged at step \d+ of 20: .* lower learning_rate"):
        fit(fresh, task, Fit(epochs=2, learning_rate=1e12))


SCRIPT = textwrap.dedent("""
    import os, signal, sys
    sys.path.insert(0, {folder!r})
    from nets import digits, model
    import torch, packlight as pl
    from packlight.train import Fit, fit
    torch.set_num_threads(1)
    kill_at = int(sys.argv[1])
    import packlight.train.loop as loop
    loop.CHECKPOINT_EVERY_S = 0.0
    def step(p):
        if p.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    how = Fit(epochs=2, batch=64, learning_rate=0.05)
    made = fit(model(dropout=0.3), digits(), how, checkpoint=sys.argv[2], on_step=step)
    made.save(sys.argv[3])
""").format(folder=str(Path(__file__).parent))


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(
    fresh: pl.Model, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    recipe, seen = Fit(epochs=1, batch=64, learning_rate=0.05), []

    def stop(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.step == 9:
            raise KeyboardInterrupt

    whole = fit(fresh, task, recipe)
    with pytest.raises(KeyboardInterrupt):
        fit(fresh, task, recipe, checkpoint=tmp_path / "run.ckpt", on_step=stop)
    resumed = fit(fresh, task, recipe, checkpoint=tmp_path / "run.ckpt", on_step=lambda p: seen.append(p.step))
    assert seen[8:10] == [9, 9]  # the step that was not saved is done again
    tensors = resumed.named_tensors()
    assert all(torch.equal(t, tensors[name]) for name, t in whole.named_tensors().items())


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
@pytest.mark.slow
@pytest.mark.parametrize(
    "kill_at",
    [
        pytest.param(1, id="first step"),
        pytest.param(19, id="end of an epoch"),
        pytest.param(30, id="middle of an epoch"),
    ],
)
def test_a_run_killed_at_any_step_and_resumed_ends_with_the_same_weights(tmp_path: Path, kill_at: int) -> None:
    def run(at: int, checkpoint: str, out: str) -> int:
        command = [sys.executable, "-c", SCRIPT, str(at), str(tmp_path / checkpoint), str(tmp_path / out)]
        return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode

    assert run(0, "whole.ckpt", "whole.plm") == 0
    assert run(kill_at, "killed.ckpt", "killed.plm") == -signal.SIGKILL
    assert not (tmp_path / "killed.plm").exists()
    assert run(0, "killed.ckpt", "killed.plm") == 0
    assert same(pl.Model.load(tmp_path / "whole.plm"), pl.Model.load(tmp_path / "killed.plm"))


def test_a_checkpoint_of_another_run_is_refused(fresh: pl.Model, task: Task, tmp_path: Path) -> None:
    fit(fresh, task, Fit(epochs=0.2, batch=64), checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(PacklightError, match="another model, data or options"):
        fit(fresh, task, Fit(epochs=0.2, batch=64, seed=1), checkpoint=tmp_path / "run.ckpt")


def test_a_damaged_checkpoint_is_one_clear_error(fresh: pl.Model, task: Task, tmp_path: Path) -> None:
    (tmp_path / "run.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(PacklightError, match="is damaged"):
        fit(fresh, task, Fit(epochs=0.2), checkpoint=tmp_path / "run.ckpt")


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"batch": 0}, {"learning_rate": -1}, {"optimizer": "adam"}, {"epochs": float("inf")}],
    ids=lambda b: next(iter(b)),
)  # fmt: skip
def test_bad_options_are_refused_before_work_starts(bad: dict[str, object]) -> None:
    with pytest.raises(PacklightError):
        Fit(**bad)  # type: ignore[arg-type]

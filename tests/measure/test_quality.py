"""Scoring: the same samples in the same order, and one clear error for data that does not fit."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate, torch_runner, workload_inputs
from packlight.task import ArrayData, LoaderData, Metric, Task
from packlight.task.metrics import scored

CLASSES = 3


class Fake:
    """Scores the class that the input names, and remembers what it was fed."""

    def __init__(self, fixed_batch: int | None = None, wrong: tuple[int, ...] = ()):
        self.fixed_batch, self.wrong, self.fed = fixed_batch, wrong, []

    def __call__(self, x):
        self.fed.append(x.ravel().tolist())
        answers = x.ravel().astype(int)
        answers = np.where(np.isin(answers, self.wrong), answers + 1, answers) % CLASSES
        return (np.eye(CLASSES, dtype=np.float32)[answers],)


def task(x, y, **more) -> Task:
    return Task("toy", test=ArrayData(np.asarray(x, np.float32)[:, None], np.asarray(y)), **more)


@functools.cache
def linear(batch: int | None = None) -> pl.Model:
    torch.manual_seed(0)
    dynamic = {} if batch else None
    return pl.load(nn.Sequential(nn.Linear(5, CLASSES)), torch.zeros(batch or 2, 5), dynamic=dynamic, name="linear")


def test_rows_come_in_the_order_of_the_samples():
    y = np.arange(200) % CLASSES
    scores = evaluate(Fake(wrong=(2,)), task(y, y))
    assert scores.rows[:, 0].tolist() == [float(label != 2) for label in y]
    assert scores.decided.tolist() == [0 if label == 2 else int(label) for label in y]


def test_a_fixed_batch_is_filled_up_by_repetition_and_the_filling_does_not_count():
    x = np.arange(10) % CLASSES
    fake = Fake(fixed_batch=4)
    scores = evaluate(fake, task(x, x))
    assert [len(batch) for batch in fake.fed] == [4, 4, 4]
    assert fake.fed[-1] == [2, 0, 2, 0]
    assert len(scores.rows) == len(scores.decided) == 10
    assert scores.measurement.value == 100


def test_a_network_with_a_static_batch_scores_like_its_dynamic_twin():
    x = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    y = np.arange(10) % CLASSES
    torch.manual_seed(0)
    data = Task("toy", test=(x, y))
    assert evaluate(linear(4), data).rows.tolist() == evaluate(linear(), data).rows.tolist()


def test_outputs_without_a_batch_axis_survive_the_filling():
    def run(x):
        return np.eye(CLASSES)[x.ravel().astype(int)], np.float32(7)

    run.fixed_batch = 4
    assert len(evaluate(run, task([0, 1, 2], [0, 1, 2])).rows) == 3


def test_drop_and_agreement_are_paired():
    y = np.arange(90) % CLASSES
    data = task(y, y)
    before, after = evaluate(Fake(), data), evaluate(Fake(wrong=(1,)), data)
    assert after.drop_from(before).value == pytest.approx(100 / 3)
    assert after.agreement_with(before).value == pytest.approx(200 / 3)


def test_the_same_scores_differ_by_exactly_nothing():
    y = np.arange(9) % CLASSES
    scores = evaluate(Fake(), task(y, y))
    assert (scores.drop_from(scores).low, scores.drop_from(scores).high, scores.drop_from(scores).n) == (0, 0, 9)
    assert (scores.agreement_with(scores).low, scores.agreement_with(scores).high) == (100, 100)


def test_scores_of_other_samples_are_not_compared():
    one, two = (evaluate(Fake(), task(np.zeros(n), np.zeros(n, int))) for n in (4, 5))
    with pytest.raises(PacklightError, match="same samples"):
        two.drop_from(one)


def test_a_model_in_training_mode_is_scored_in_eval_mode_and_left_as_it_was():
    torch.manual_seed(0)
    model = pl.load(nn.Sequential(nn.Linear(5, CLASSES), nn.Dropout(0.9)), torch.zeros(2, 5)).train()
    x = np.ones((4, 5), np.float32)
    first, second = torch_runner(model)(x)[0], torch_runner(model)(x)[0]
    assert (first == second).all() and (first != 0).all()
    assert model.training


def test_read_only_arrays_are_fine():
    x = np.zeros((4, 5), np.float32)
    x.flags.writeable = False
    assert torch_runner(linear())(x)[0].shape == (4, CLASSES)


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        (np.zeros((6, 5)), None, "has no targets"),
        (np.zeros((6, 4)), np.zeros(6, int), r"got shape \[6, 4\]"),
        (np.zeros((6, 5), np.int64), np.zeros(6, int), "int64.*float32"),
        (np.zeros((6, 5), np.uint16), np.zeros(6, int), "uint16.*float32"),
        (np.zeros((6, 5)), np.full(6, CLASSES), "labels range from 3 to 3, the network has classes 0 to 2"),
        (np.zeros((6, 5)), np.full(6, -1), "labels range from -1 to -1"),
        (np.zeros((6, 5)), np.zeros(6), "labels must be integers"),
        (np.zeros((6, 5)), np.zeros((6, 2), int), "do not fit labels of shape"),
        (np.zeros((0, 5)), np.zeros(0, int), "is empty"),
    ],
    ids=["unlabelled", "shape", "dtype", "a dtype torch lacks", "label too large", "label negative",
         "labels not integer", "labels of another shape", "empty"],
)  # fmt: skip
def test_data_that_do_not_fit_are_one_clear_error(inputs, targets, said):
    inputs = inputs.astype(np.float32) if inputs.dtype == np.float64 else inputs
    data = Task("toy", test=ArrayData(inputs, targets))
    with pytest.raises(PacklightError, match=said) as caught:
        evaluate(linear(), data)
    assert "\n" not in str(caught.value)


def test_a_network_that_answers_nan_is_an_error():
    def run(x):
        return (np.full((len(x), CLASSES), np.nan),)

    with pytest.raises(PacklightError, match="NaN"):
        evaluate(run, task([0, 1], [0, 1]))


@pytest.mark.parametrize(
    ("per_sample", "said"),
    [
        (lambda o, t: o[0].mean(axis=1, keepdims=True) * np.nan, "NaN or infinite for 2 of 2 samples"),
        (lambda o, t: o[0][:, 0], r"gave shape \[2\] for 2 samples"),
        (lambda o, t: o[0][:1], r"per_sample must return \[2, k\]"),
        (lambda o, t: o[5], "metric 'mine' failed: IndexError"),
        (lambda o, t: [["a"], ["b"]], "metric 'mine' failed: ValueError"),
    ],
    ids=["NaN", "one axis", "too few rows", "raises", "not numbers"],
)
def test_a_metric_that_does_not_keep_its_contract_is_named(per_sample, said):
    metric = Metric("mine", per_sample, lambda rows: float(rows.mean()), unit="")
    with pytest.raises(PacklightError, match=said):
        scored(metric, (np.ones((2, CLASSES)),), np.zeros(2, int))


def test_outputs_that_change_their_shape_between_batches_are_a_clear_error():
    def run(x):
        return (np.ones((len(x), CLASSES, len(x))),)

    batches = [(torch.zeros(n, 1), torch.zeros(n, n, dtype=torch.int64)) for n in (2, 3)]
    with pytest.raises(PacklightError, match="differ in shape from batch to batch"):
        evaluate(run, Task("toy", test=LoaderData(batches)))


def test_a_short_split_is_repeated_to_the_workloads_batch():
    (inputs,) = workload_inputs(task([0, 1, 2], [0, 1, 2]), "test", 7)
    assert inputs.ravel().tolist() == [0, 1, 2, 0, 1, 2, 0]

"""What a search refuses before any work starts."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.machine import cores
from packlight.search.prepare import prepare
from packlight.task import ArrayData, Data, Task, Workload

X, Y = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32), np.arange(20) % 3
GOOD = {"calibration": X, "validation": (X, Y), "test": (X, Y)}


@functools.cache
def network(batch: int | None = None) -> pl.Model:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    return pl.load(net, torch.zeros(batch or 2, 5), dynamic={} if batch else None, name="net")


class Untouchable(Data):
    """Data that a search must not read before its verdict."""

    def batches(self, size):
        raise AssertionError("the search looked at the test data")

    def __len__(self):
        raise AssertionError("the search counted the test data")

    def fingerprint(self):
        raise AssertionError("the search digested the test data")


def test_what_is_well_is_ground_to_stand_on():
    ground = prepare(network(), Task("toy", **GOOD, workload=Workload(batch=3)), ["0"])
    assert ground.split == "validation"
    assert [x.shape for x in ground.inputs] == [(3, 5)]
    assert ground.exclude == ("0",)
    assert not ground.model.training
    assert len(ground.task.calibration) == 20


def test_choices_look_at_test_data_only_where_there_is_no_other():
    assert prepare(network(), Task("toy", calibration=X, test=(X, Y))).split == "test"


def test_test_data_are_not_looked_at():
    prepare(network(), Task("toy", **{**GOOD, "test": Untouchable()}))


def test_calibration_data_are_read_once_and_held():
    reads = []

    class Counted(ArrayData):
        def batches(self, size):
            reads.append(size)
            return super().batches(size)

        def take(self, n):
            reads.append(n)
            return super().take(n)

    ground = prepare(network(), Task("toy", **{**GOOD, "calibration": Counted(X)}))
    assert reads == [256]
    assert not isinstance(ground.task.calibration, Counted)


def nan_loader():
    poisoned = X.copy()
    poisoned[7, 2] = np.nan
    return [torch.from_numpy(poisoned[i : i + 4]) for i in range(0, 20, 4)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"calibration": X[:0]}, "calibration data of task 'toy' is empty"),
        ({"calibration": None}, r"no calibration data; give Task\(calibration=…\)"),
        ({"calibration": X[:, :4]}, r"calibration data of task 'toy': .*got shape \[1, 4\]"),
        ({"calibration": nan_loader()}, "NaN or infinite"),
        ({"validation": X}, "validation data of task 'toy' has no targets"),
        ({"validation": (X.astype(np.int64), Y)}, "validation data of task 'toy': .*int64.*float32"),
        ({"validation": (X, Y + 1)}, "validation data of task 'toy': labels range from 1 to 3.*classes 0 to 2"),
        ({"validation": (X[:0], Y[:0])}, "validation data of task 'toy' is empty"),
        ({"validation": (X, Y / 2)}, "labels must be integers"),
        ({"test": (X, np.where(np.arange(20) == 19, 7, Y))}, "test data of task 'toy': labels range from . to 7"),
        ({"test": X}, "test data of task 'toy' has no targets"),
        ({"test": (X[:, :3], Y)}, r"test data of task 'toy': .*got shape \[1, 3\]"),
        ({"validation": None, "test": None}, "no test data"),
        ({"metric": "top5"}, "top-5 of 3 classes is always right"),
        ({"workload": Workload(threads=cores() + 1)}, rf"may use {cores()} processors; set Workload\(threads="),
    ],
    ids=["calibration empty", "calibration missing", "calibration shape", "calibration NaN", "validation unlabelled",
         "validation dtype", "validation label", "validation empty", "validation labels not integer", "test label",
         "test unlabelled", "test shape", "no data to judge on", "metric", "threads"],
)  # fmt: skip
def test_data_that_cannot_work_are_refused_in_one_line(changes, said):
    with pytest.raises(PacklightError, match=said) as caught:
        prepare(network(), Task("toy", **{**GOOD, **changes}))
    assert "\n" not in str(caught.value)


def test_weights_that_are_nan_are_refused():
    sick = network().copy()
    with torch.no_grad():
        next(sick.parameters())[0, 0] = float("nan")
    with pytest.raises(PacklightError, match=r"1 of 20 values of '0[.]weight' are NaN"):
        prepare(sick, Task("toy", **GOOD))


def test_a_pattern_that_matches_no_layer_is_refused():
    with pytest.raises(PacklightError, match="no layer matches 'hed'"):
        prepare(network(), Task("toy", **GOOD), ["hed"])


def test_a_fixed_batch_that_is_not_the_workloads_is_refused_and_the_right_one_is_told():
    with pytest.raises(PacklightError, match=r"fixed batch of 4, the workload asks for 1; set Workload\(batch=4\)"):
        prepare(network(4), Task("toy", **GOOD))
    assert prepare(network(4), Task("toy", **GOOD, workload=Workload(batch=4))).inputs[0].shape == (4, 5)

"""Modes of transfer, tried within a time and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transfer_tasks import high_digits, knowing

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.search import transfer as searching
from packlight.search.transfer import TransferResult, transfer
from packlight.task import Data, Task
from packlight.train import Fit, Schedule
from packlight.train.transfer import Transfer

QUICK = Transfer(fit=Fit(epochs=2), head=Fit(epochs=2))


class Untouchable(Data):
    """Test data that no choice may look at."""

    def batches(self, size: int) -> Any:
        raise AssertionError("test data was read")

    def __len__(self) -> int:
        return 100

    def fingerprint(self) -> str:
        return ""


@pytest.fixture(scope="module")
def task() -> Task:
    return high_digits()


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def result(task: Task, stages: list[str]) -> TransferResult:
    return transfer(knowing(), replace(task, test=Untouchable()), on_stage=stages.append)


def test_the_best_on_validation_data_is_returned_and_holds_on_test_data(result: TransferResult, task: Task) -> None:
    best = max(result.rows, key=lambda r: r.validation.value)
    assert result.best == next(r.mode for r in result.rows if r.validation.value == best.validation.value)
    assert evaluate(result.model, task, "validation").measurement == best.validation
    assert evaluate(result.model, task, "test").measurement.low > 75
    assert result.classes == 4 and result.metric == "accuracy"


def test_all_modes_are_compared_the_cheapest_first(result: TransferResult, stages: list[str]) -> None:
    assert [r.mode for r in result.rows] == ["extract", "adapt", "unfreeze", "full"]
    assert [s.split(":")[0] for s in stages[::2]] == ["extract", "adapt", "unfreeze", "full"]
    assert stages[0] == "extract: training 516 parameters"
    assert not result.skipped and all(r.seconds > 0 for r in result.rows)
    (winner,) = (r for r in result.rows if r.mode == result.best)
    assert winner.drop.value == winner.drop.low == winner.drop.high == 0
    assert all(r.drop.low < r.drop.value < r.drop.high for r in result.rows if r is not winner)


def test_modes_go_on_from_the_extracted_head_unless_told_otherwise(result: TransferResult, task: Task) -> None:
    alone = transfer(knowing(), task, options=replace(QUICK, probe=False))
    for made, names in ((result, ["extract", result.best]), (alone, [alone.best])):
        told = [s.options["transfer"] for s in made.model.lineage if "transfer" in s.options]
        assert told == list(dict.fromkeys(names))


def test_the_ledger_is_plain_and_the_table_has_a_row_a_mode(result: TransferResult) -> None:
    ledger = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert ledger["best"] == result.best and ledger["split"] == "validation"
    assert ledger["modes"][0]["trained_parameters"] == 516
    lines = result.table().splitlines()
    assert len(lines) == 2 + 4 and all(line.count("|") == 6 for line in lines)
    assert f"| **{result.best}** |" in result.table()


def test_the_result_saves_and_loads(result: TransferResult, tmp_path: Path) -> None:
    again = pl.Model.load(result.model.save(tmp_path / "best.plm"))
    x = again.example_inputs(batch=5)
    assert torch.equal(again(*x), result.model(*x)) and again(*x).shape == (5, 4)


def test_a_time_limit_is_shared_out_and_kept(task: Task) -> None:
    endless = Fit(epochs=float("inf"), batch=32, learning_rate=1e-3, optimizer="adamw", schedule=Schedule(time_s=60))
    made = transfer(knowing(), task, time_limit_s=3, options=Transfer(fit=endless, head=endless))
    assert len(made.rows) >= 2 and len(made.rows) + len(made.skipped) == 4
    assert 2 < made.seconds < 6  # the first mode's scoring comes on top, and others keep the machine busy


def test_a_mode_without_time_for_an_epoch_is_skipped_and_says_so(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_BACKWARD", 1e6)
    made = transfer(knowing(), task, time_limit_s=60, options=QUICK)
    assert [r.mode for r in made.rows] == ["extract"] and made.best == "extract"
    assert set(made.skipped) == {"adapt", "unfreeze", "full"}
    assert "an epoch takes about" in made.skipped["full"] and "not tried: an epoch takes" in made.table()


def test_a_mode_that_fails_is_skipped_and_says_why(task: Task) -> None:
    model = pl.load(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), torch.zeros(2, 1, 8, 8))
    made = transfer(model, task, modes=("adapt", "extract"), options=QUICK)
    assert made.best == "extract" and "no linear or convolution weight" in made.skipped["adapt"]
    with pytest.raises(PacklightError, match="no mode of transfer could be tried: adapt: "):
        transfer(model, task, modes=("adapt",), options=QUICK)


def test_classes_may_be_more_than_the_training_data_has(task: Task) -> None:
    made = transfer(knowing(), task, 7, modes=("extract",), options=QUICK)
    assert made.model.outputs[0].shape[-1] == 7 and made.classes == 7


REFUSED = {
    "no validation data": (lambda t: replace(t, validation=None), {}, "no validation data"),
    "no mode": (lambda t: t, {"modes": ()}, "name one or more"),
    "unknown mode": (lambda t: t, {"modes": ("extract", "prompt")}, "modes of transfer are extract, adapt"),
    "no time": (lambda t: t, {"time_limit_s": 0}, "time_limit_s > 0"),
    "numbered from six": (lambda t: replace(t, train=(t.train.inputs[0], t.train.targets + 6)), {}, "must be 0 to 3"),
    "too few classes": (lambda t: t, {"classes": 3}, "must be 0 to 2 for 3 classes, got 3 as well"),
    "no targets": (lambda t: replace(t, train=t.train.inputs[0]), {}, "has no targets"),
    "values": (lambda t: replace(t, train=(t.train.inputs[0], np.ones(len(t.train)))), {}, "whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_any_training(
    change: Any, given: dict[str, Any], message: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching._Bench, "attempt", lambda *a: pytest.fail("training began"))
    with pytest.raises(PacklightError, match=message):
        transfer(knowing(), change(task), **given)

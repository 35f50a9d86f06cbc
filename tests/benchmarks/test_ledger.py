"""The ledger: whole lines only, read with suspicion, and the newest complete measurement counts."""

import json
from dataclasses import asdict

import pytest
from made_rows import made_case, made_row

from benchmarks.ledger import append, cases, read
from packlight import PacklightError
from packlight.measure import Measurement

ROWS = made_case({"float32": {"bytes": 1000}, "packlight int8": {"bytes": 250}})


def test_rows_come_back_as_they_were_appended(tmp_path):
    path = tmp_path / "new" / "ledger.jsonl"
    append(path, ROWS[:2])
    append(path, ROWS[2:])
    assert read(path) == ROWS
    assert path.read_text().count("\n") == len(ROWS)


def test_a_line_that_a_killed_writer_left_cut_is_passed_over_and_then_dropped(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append(path, ROWS[:3])
    path.write_bytes(path.read_bytes()[:-20])
    assert read(path) == ROWS[:2]
    append(path, ROWS[3:])
    assert read(path) == [*ROWS[:2], *ROWS[3:]]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("{oops", id="no JSON"),
        pytest.param("[1, 2]", id="no object"),
        pytest.param(json.dumps({**asdict(ROWS[0]), "more": 1}), id="unknown field"),
        pytest.param(json.dumps({k: v for k, v in asdict(ROWS[0]).items() if k != "commit"}), id="missing field"),
        pytest.param(json.dumps({**asdict(ROWS[0]), "value": "fast"}), id="value is a word"),
        pytest.param(json.dumps({**asdict(ROWS[0]), "n": 1.5}), id="half an observation"),
    ],
)
def test_nonsense_is_refused_in_one_line_that_says_where(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    append(path, ROWS[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(PacklightError, match=r"ledger\.jsonl, line 2") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_ledger_says_what_writes_one(tmp_path):
    with pytest.raises(PacklightError, match="python -m benchmarks run"):
        read(tmp_path / "none.jsonl")


def test_the_newest_complete_case_counts():
    newer = made_case({"float32": {"bytes": 2000}}, {"run": "quick-2"})
    cut_short = [made_row("float32", "file_bytes", Measurement.exact(3000, "bytes"), stamp={"run": "quick-3"})]
    (found,) = cases([*ROWS, *newer, *cut_short], "quick").values()
    assert found["float32", "file_bytes", None].value == 2000


def test_the_remains_of_a_killed_write_do_not_leak_into_the_repeated_case():
    leftovers = made_case({"float32": {"bytes": 1}, "gone": {"bytes": 2}})[:2]
    (found,) = cases([*leftovers, *ROWS], "quick").values()
    assert found["float32", "file_bytes", None].value == 1000


def test_modes_are_kept_apart():
    assert not cases(ROWS, "full")

"""Running cases: what is complete is passed over, and a case that dies is a row with the reason."""

import subprocess
from types import SimpleNamespace

import pytest
from made_rows import made_case

from benchmarks import ROOT
from benchmarks.case import Absent, Case
from benchmarks.ledger import DONE, append, finding, read
from benchmarks.run import run, state
from benchmarks.study import run as run_study
from packlight import PacklightError

CASE = Case("no-such-case", "packlight.networks:lenet300", (1, 28, 28))

if subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, cwd=ROOT).returncode:
    pytest.skip("rows carry the commit, and this is no git checkout", allow_module_level=True)


@pytest.fixture(autouse=True)
def no_forms(monkeypatch):
    """No environment is made for the forms of a case that cannot run."""
    monkeypatch.setattr("benchmarks.run.discover", lambda: ([], {}))


def test_a_case_that_this_code_measured_completely_is_passed_over(tmp_path, capsys):
    ledger = tmp_path / "ledger.jsonl"
    append(ledger, made_case({"float32": {"bytes": 10}}, {"run": state().run("quick"), "case": CASE.name}))
    before = ledger.read_bytes()
    run([CASE], True, ledger)
    assert ledger.read_bytes() == before
    assert "no-such-case: complete in" in capsys.readouterr().err


def test_a_case_that_dies_is_a_row_with_the_reason_and_is_tried_again(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    append(ledger, made_case({"float32": {"bytes": 10}}, {"run": "quick-older code", "case": CASE.name}))
    whole = len(read(ledger))
    for attempt in (1, 2):
        run([CASE], True, ledger)
        added = read(ledger)[whole:]
        assert [(row.what, row.form) for row in added] == [("failed", "")] * attempt
    assert added[0].detail["reason"] == "case no-such-case ended with exit code 2: see above"
    assert (added[0].run, added[0].commit) == (state().run("quick"), state().commit)


def test_parts_of_a_study_are_cases_that_can_be_chosen_and_are_measured_once(tmp_path, monkeypatch, capsys):
    measured, ledger = [], tmp_path / "ledger.jsonl"
    monkeypatch.setattr("benchmarks.study.SCRATCH", tmp_path)
    monkeypatch.setattr("benchmarks.study.names", lambda: ["sizes"])

    def study(part, folder):
        if part == "vgg":
            raise Absent("vgg.plm is not there")
        measured.append(part)
        yield finding(part, "refused", reason="no kernel")

    made = SimpleNamespace(PARTS=("vgg", "lenet5", "lenet300", "resnet20"), study=study)
    monkeypatch.setattr("benchmarks.study.importlib.import_module", lambda name: made)
    run_study("sizes:lenet*", ledger)
    run_study("sizes", ledger)
    assert measured == ["lenet5", "lenet300", "resnet20"]
    assert [r.case for r in read(ledger) if r.what == DONE] == ["sizes:lenet5", "sizes:lenet300", "sizes:resnet20"]
    assert "sizes:vgg: left out, vgg.plm is not there" in capsys.readouterr().err
    with pytest.raises(PacklightError, match="no part 'vit'; there are vgg, lenet5, lenet300, resnet20"):
        run_study("sizes:vit", ledger)

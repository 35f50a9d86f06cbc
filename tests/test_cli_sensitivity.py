"""`packlight sensitivity`, and budgets of `packlight quantize`: what they say, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_tasks import digits, trained

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate

TASK_FILE = """
import sys
sys.path.insert(0, {tests!r})
from small_tasks import digits
task = digits()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("work")
    trained().save(made / "net.plm")
    (made / "task.py").write_text(TASK_FILE.format(tests=str(Path(__file__).parent)))
    return made


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, command_line):
    monkeypatch.chdir(folder)
    return command_line


def sensitivity(*more: str) -> tuple[str, ...]:
    return "sensitivity", "net.plm", "--task", "task.py", "--samples", "32", *more


def test_layers_stand_with_the_largest_value_first(run) -> None:
    code, told, _ = run(*sensitivity("--measure", "removal", "--json"))
    found = json.loads(told)
    assert code == 0 and found["samples"] == 32
    assert "class probabilities" in found["what"], "the task is to choose among classes"
    values = {r["layer"]: r["value"] for r in found["layers"]}
    assert list(values) == ["stem", "body", "head"]
    code, told, _ = run(*sensitivity("--measure", "removal"))
    order = [line.split()[0] for line in told.splitlines() if line.split() and line.split()[0] in values]
    assert code == 0 and order == sorted(values, key=values.__getitem__, reverse=True)


def test_the_plot_is_a_page_with_every_layer(run, folder: Path) -> None:
    code, told, _ = run(*sensitivity("--plot", "out.html"))
    page = (folder / "out.html").read_text()
    assert code == 0 and "wrote out.html" in told
    assert all(name in page for name in ("stem", "body", "head", "Fisher information"))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--measure", "guess"), "no measure 'guess'; choose removal"),
        (("--plot", "out.png"), "name it out.html"),
        (("--plot", "nowhere/out.html"), "folder nowhere does not exist"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(run, args: tuple[str, ...], told: str) -> None:
    code, _, said = run(*sensitivity(*args))
    assert code == 2 and told in said


def test_a_budget_on_the_command_line_is_kept(run, folder: Path) -> None:
    how = ("--mixed", "global", "--budget", "3.2bits", "--ends", "2", "--samples", "32", "--json")
    code, told, _ = run("quantize", "net.plm", "--task", "task.py", "--out", "small.plm", *how)
    assert code == 0 and any(note.startswith("3 bits: stem, body, head") for note in json.loads(told)["notes"])


def test_the_fewest_bits_within_a_drop_are_measured() -> None:
    task = digits()
    small = pl.quantize(trained(), task, mixed="global", budget="drop<=1points", ends=2, samples=64)
    before = evaluate(trained(), task, "validation")
    assert evaluate(small, task, "validation").drop_from(before).value <= 1
    (note,) = [n for n in small.notes if "on validation data" in n]
    bits = int(note.split(" with ")[1][0])
    worse = pl.quantize(trained(), task, weights=bits - 1 - (bits == 8), ends=2, samples=64)
    assert evaluate(worse, task, "validation").drop_from(before).value > 1 or bits == 2


def test_a_drop_that_no_bits_keep_and_one_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(PacklightError, match="budget 'drop<=1points' needs mixed"):
        pl.quantize(trained(), digits(), budget="drop<=1points")
    with pytest.raises(PacklightError, match="give points"):
        pl.quantize(trained(), digits(), mixed="global", budget="drop<=1%")

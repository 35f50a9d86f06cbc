"""Tasks: splits, workloads, and the Python files that define them."""

from __future__ import annotations

import sys
from textwrap import dedent

import numpy as np
import pytest
from torch.utils.data import DataLoader

from packlight.errors import PacklightError
from packlight.task import LoaderData, Metric, Task, Workload

X, Y = np.zeros((5, 2), np.float32), np.zeros(5, int)


def test_every_split_may_be_given_in_its_own_form():
    task = Task(calibration=X, train=(X, Y), validation=[(X, Y)], test=DataLoader([(x, 0) for x in X], batch_size=2))
    assert [len(task.data(s)) for s in ("calibration", "train", "validation", "test")] == [5, 5, 5, 5]


def test_training_data_may_shuffle_and_others_may_not():
    loader = DataLoader([(x, 0) for x in X], shuffle=True)
    assert isinstance(Task(train=loader).train, LoaderData)
    with pytest.raises(PacklightError, match="task 'clothes', test: this DataLoader shuffles"):
        Task("clothes", test=loader)


def test_calibration_falls_back_on_the_first_256_training_samples():
    x = np.arange(300, dtype=np.float32)[:, None]
    calibration = Task(train=(x, np.zeros(300, int))).data("calibration")
    assert np.array_equal(calibration.inputs[0], x[:256])


@pytest.mark.parametrize("split", ["calibration", "train", "validation", "test"])
def test_a_split_that_is_missing_says_how_to_give_it(split):
    with pytest.raises(PacklightError, match=rf"task 'clothes' has no {split} data; give Task\({split}=…\)"):
        Task("clothes").data(split)


@pytest.mark.parametrize("empty", [(X[:0], Y[:0]), [], DataLoader([])], ids=["arrays", "list", "loader"])
def test_an_empty_split_says_so(empty):
    with pytest.raises(PacklightError, match="the calibration data of task 'clothes' is empty"):
        Task("clothes", calibration=empty).data("calibration")


def test_an_unknown_split_names_the_known_ones():
    with pytest.raises(PacklightError, match="no split 'valid'; choose one of calibration, train, validation, test"):
        Task().data("valid")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"test": 3}, "task 'clothes', test: data must be arrays"),
        ({"train": (X, Y[:2])}, "task 'clothes', train: inputs and targets must have equal lengths"),
        ({"validation": X * np.nan}, "task 'clothes', validation: input 0 of the data: 10 of 10 values are NaN"),
        ({"metric": "speed"}, "no metric 'speed'"),
    ],
    ids=["no data", "lengths", "nan", "metric"],
)
def test_a_wrong_task_is_refused_at_once_in_one_line(given, reason):
    with pytest.raises(PacklightError, match=reason) as error:
        Task("clothes", **given)
    assert "\n" not in str(error.value)


def test_the_metric_is_a_metric_whatever_was_given():
    assert isinstance(Task(metric="f1").measure_with, Metric)


# workload


@pytest.mark.parametrize(
    "given", [{"batch": 0}, {"threads": 0}, {"batch": -1}, {"batch": 1.5}, {"threads": "2"}, {"batch": None}], ids=str
)
def test_a_wrong_workload_is_refused(given):
    with pytest.raises(PacklightError, match="a workload needs whole numbers batch >= 1 and threads >= 1, got"):
        Workload(**given)


def test_a_workload_is_one_sample_on_one_thread_by_default():
    assert (Task().workload.batch, Task().workload.threads) == (1, 1)
    assert Workload(8, 4) == Workload(batch=8, threads=4)


# from a file


def written(folder, text: str, name: str = "mine.py"):
    path = folder / name
    path.write_text(dedent(text))
    return path


GOOD = {
    "variable": "import numpy as np\nfrom packlight.task import Task\ntask = Task('mine', test=np.zeros((3, 1)))",
    "function": "import numpy, packlight.task as t\ndef task():\n    return t.Task('mine', test=numpy.zeros(3))",
    "neighbour": "from helper_of_mine import made\ntask = made",
    "dataclass": """
        from __future__ import annotations
        import numpy as np
        from dataclasses import dataclass
        from packlight.task import Task
        @dataclass
        class Size:
            n: int = 3
        task = Task('mine', test=np.zeros((Size().n, 1)))
    """,
}


@pytest.mark.parametrize("case", GOOD)
def test_a_file_that_makes_a_task_is_read(case, tmp_path):
    written(tmp_path, GOOD["variable"] + "\nmade = task", "helper_of_mine.py")
    task = Task.from_file(written(tmp_path, GOOD[case]))
    assert (task.name, len(task.data("test"))) == ("mine", 3)
    assert Task.named(str(tmp_path / "mine.py")).name == "mine"


def test_reading_a_file_leaves_the_search_path_alone(tmp_path):
    before = list(sys.path)
    Task.from_file(written(tmp_path, GOOD["variable"]))
    with pytest.raises(PacklightError):
        Task.from_file(written(tmp_path, "1 / 0"))
    assert sys.path == before


BAD = {
    "raises": ("\n\n1 / 0", r"mine.py:3 failed: ZeroDivisionError: division by zero"),
    "raises in the function": ("def task():\n    return {}['x']", r"mine.py:2 failed: KeyError: 'x'"),
    "does not parse": ("task = (", r"mine.py.* failed: SyntaxError"),
    "exits": ("import sys\nsys.exit('bye')", r"mine.py:2 failed: SystemExit: bye"),
    "imports what is not there": ("import nothing_of_this_name", r"mine.py:1 failed: ModuleNotFoundError"),
    "defines no task": ("x = 1", "must define `task`"),
    "defines something else": ("task = 3", "must define `task`, a packlight.Task or a function that returns one"),
    "returns nothing": ("def task(): pass", "must define `task`"),
    "needs arguments": ("def task(x): pass", "failed: TypeError"),
    "makes a wrong task": ("from packlight.task import Task\ntask = Task(metric='x')", "no metric 'x'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_makes_no_task_is_one_line(case, tmp_path):
    text, reason = BAD[case]
    with pytest.raises(PacklightError, match=reason) as error:
        Task.from_file(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_path_that_is_no_file_is_one_line(tmp_path):
    with pytest.raises(PacklightError, match=r"no file .*nowhere\.py; give a \.py file that defines `task`"):
        Task.from_file(tmp_path / "nowhere.py")
    with pytest.raises(PacklightError, match="no file"):
        Task.from_file(tmp_path)
    with pytest.raises(PacklightError, match="is no Python file"):
        Task.from_file(written(tmp_path, "task = 1", "mine.txt"))


def test_an_unknown_name_lists_the_built_in_tasks():
    with pytest.raises(
        PacklightError, match=r"no task 'mnist'; built in are fashion-mnist, fashion-mnist-demo, .*brown.*, or give"
    ):
        Task.named("mnist")

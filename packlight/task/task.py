"""Task: what "good" means for a network, and on which data each question may be asked."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.task.data import Data, as_data
from packlight.task.metrics import Metric, metric

_SPLITS = ("calibration", "train", "validation", "test")


@dataclass(frozen=True)
class Workload:
    """What latency means: samples a call (>= 1), and threads the runtime may use (>= 1)."""

    batch: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        given: tuple[Any, ...] = (self.batch, self.threads)
        if not all(isinstance(n, int) and n >= 1 for n in given):
            raise PacklightError(
                f"a workload needs whole numbers batch >= 1 and threads >= 1, got {self.batch!r} and {self.threads!r}"
            )


@dataclass(frozen=True)
class Task:
    """What "good" means.

    calibration: unlabelled or labelled, never test data; the first 256 training samples when not given.
    train: labelled, for fine-tuning. validation: what choices may look at. test: what verdicts are given on,
    never looked at by a search. Each may be arrays, (inputs, targets), a torch DataLoader, or Data.
    metric: a name ("accuracy", "top5", "f1", "recall", "mean_iou", "perplexity", "mse") or a Metric.
    loss: "cross_entropy", "mse" or a callable (outputs, targets) -> scalar tensor. augment: (inputs tensor
    [n, …], generator) -> the same shape, for training only. mix: (inputs tensor, targets, generator) -> both, after
    augment, for training only; what it makes of targets is for the loss to read (mixup, CutMix). preprocessing: facts
    about the inputs that travel with the artifact.
    """

    name: str = "task"
    metric: Metric | str = "accuracy"
    calibration: Any = None
    train: Any = None
    validation: Any = None
    test: Any = None
    loss: str | Callable[..., Any] = "cross_entropy"
    augment: Callable[..., Any] | None = None
    mix: Callable[..., Any] | None = None
    workload: Workload = Workload()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", metric(self.metric))
        for split in _SPLITS:
            try:
                data = as_data(getattr(self, split), shuffled=split == "train")
            except PacklightError as error:
                raise PacklightError(f"task {self.name!r}, {split}: {error}") from error
            object.__setattr__(self, split, data)

    @property
    def measure_with(self) -> Metric:
        """The metric as a Metric, whatever was given."""
        assert isinstance(self.metric, Metric)
        return self.metric

    def data(self, split: str) -> Data:
        """A split by name, or an error that says what the task lacks."""
        if split not in _SPLITS:
            raise PacklightError(f"no split {split!r}; choose one of {', '.join(_SPLITS)}")
        found: Data | None = getattr(self, split)
        if found is None and split == "calibration" and self.train is not None:
            found = self.train.take(256)
        if found is None:
            raise PacklightError(f"task {self.name!r} has no {split} data; give Task({split}=…)")
        if len(found) == 0:
            raise PacklightError(f"the {split} data of task {self.name!r} is empty")
        return found

    @staticmethod
    def from_file(path: str | Path) -> Task:
        """The Task that a Python file of yours makes: a variable or a function of no arguments named `task`.

        The file runs as a script would: it may import its neighbours.
        """
        path = Path(path)
        if not path.is_file():
            raise PacklightError(f"no file {path}; give a .py file that defines `task`")
        name = f"packlight_task_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PacklightError(f"{path} is no Python file; give a .py file that defines `task`")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
            made = getattr(module, "task", None)
            made = made() if callable(made) else made
        except PacklightError:
            raise
        except (Exception, SystemExit) as error:  # the user's own file runs in there: anything can be raised
            raise PacklightError(f"{path}{_line(error, path)} failed: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(str(path.parent))
        if not isinstance(made, Task):
            raise PacklightError(f"{path} must define `task`, a packlight.Task or a function that returns one")
        return made

    @staticmethod
    def named(name: str) -> Task:
        """A built-in task by name, or the Task of a `.py` file."""
        if name.endswith(".py"):
            return Task.from_file(name)
        from packlight.task.readers import READERS

        if name not in READERS:
            raise PacklightError(f"no task {name!r}; built in are {', '.join(READERS)}, or give a .py file")
        return READERS[name]()


def _line(error: BaseException, path: Path) -> str:
    """ ":12", the last line of the file that an error came through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f":{lines[-1]}" if lines else ""

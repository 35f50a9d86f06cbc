"""The client of the runner protocol: a form in a process of its own, built, asked, timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.forms import Form
from benchmarks.process import Worker, WorkerFailure

THREADS = 1
_RUN_LIMIT_S = 600.0
_MEMORY_LIMIT_S = 30.0


class FormRunner:
    """A built form that answers. bytes: deployed. build_s: seconds. versions, options: what it says of itself.

    python: the interpreter of its environment. build_limit: seconds. Every failure is a WorkerFailure.
    """

    def __init__(self, form: Form, job: Path, python: Path, build_limit: float):
        self._job, self._name = job, f"{form.peer}-{form.form}"
        command = [str(python), str(form.script), form.form, str(job)]
        self._worker = Worker(command, job / f"{self._name}.log", THREADS)
        try:
            ready = self._worker.answer(build_limit, "building")
            if ready.get("ready") is not True:
                raise WorkerFailure(str(ready.get("reason", f"answered {ready}"))[:300])
            self.bytes, self.build_s = _positive(ready, "bytes"), _positive(ready, "seconds", least=0.0)
        except BaseException:
            self.close()
            raise
        self.versions: dict[str, str] = {k: str(v) for k, v in ready.get("versions", {}).items()}
        self.options: dict[str, Any] = dict(ready.get("options", {}))

    def predict(self, split: str, n: int) -> NDArray[np.float32]:
        """Logits [n, classes, …] of a split of n samples."""
        out = self._job / f"{self._name}.npy"
        self._done({"do": "predict", "split": split, "out": str(out)})
        try:
            logits = np.load(out)
        except (OSError, ValueError) as error:
            raise WorkerFailure(f"predict wrote no array: {error}") from error
        if logits.ndim < 2 or len(logits) != n or not np.isfinite(logits).all():
            raise WorkerFailure(f"predict gave shape {list(logits.shape)} or NaN, wanted finite [{n}, classes, …]")
        return logits.astype(np.float32)

    def time(self, batch: int, seconds: float) -> list[float] | None:
        """Seconds of each call over a block of that many seconds; None for forms that are only stored."""
        answer = self._worker.ask({"do": "time", "batch": batch, "seconds": seconds}, _RUN_LIMIT_S)
        times = answer.get("times", [])
        if times is None:
            return None
        if not times or not all(isinstance(t, float | int) and t > 0 for t in times):
            raise WorkerFailure(f"time gave {str(answer)[:200]}, wanted positive seconds")
        return [float(t) for t in times]

    def memory(self) -> int:
        """Peak resident bytes of the process."""
        return int(_positive(self._worker.ask({"do": "memory"}, _MEMORY_LIMIT_S), "bytes"))

    def close(self) -> None:
        """End the process."""
        self._worker.end()

    def _done(self, message: dict[str, Any]) -> None:
        answer = self._worker.ask(message, _RUN_LIMIT_S)
        if answer.get("done") is not True:
            raise WorkerFailure(f"{message['do']}: {str(answer.get('reason', answer))[:300]}")


def _positive(answer: dict[str, Any], name: str, least: float = 1.0) -> float:
    value = answer.get(name)
    if not isinstance(value, int | float) or not value >= least:
        raise WorkerFailure(f"{name} is {value!r}, wanted a number of at least {least:g}")
    return value

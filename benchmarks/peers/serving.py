"""The half of the runner protocol that every peer shares.

    python benchmarks/peers/NAME.py --forms
    python benchmarks/peers/NAME.py FORM JOB_DIR

A form is built in a forked child, so that the process that is timed and whose memory is read has only opened the
result, as a user's would. Then one JSON line says what was built, and JSON questions on standard input are answered
on standard output until "quit". Standard output is ours alone: whatever libraries print goes to standard error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Scripts here are named after what they call (nncodec.py): searched first, this folder would hide the libraries.
sys.path.append(sys.path.pop(0))

Array = NDArray[Any]
Inputs = tuple[Array, ...]  # one array [n, …] an input of the network
Run = Callable[[Inputs], Array]  # -> logits float32 [n, classes, …]

THREADS = int(os.environ.get("PACKLIGHT_BENCH_THREADS", "1"))
BATCH = 50
SMALL = ("lenet*", "resnet20", "mobilenet_v2_small", "ds_cnn")  # trained, one input, minutes to code or to prune
TRAINED = (*SMALL, "conformer", "unet", "lstm_*", "sentence_*")


@dataclass(frozen=True)
class Job:
    """What the harness gave. folder: JOB_DIR. made: what a user would ship, and nothing else, is written there."""

    folder: Path
    made: Path

    @cached_property
    def spec(self) -> dict[str, Any]:
        return json.loads((self.folder / "job.json").read_text())

    @property
    def quick(self) -> bool:
        return self.spec["quick"]

    def data(self, split: str) -> tuple[Inputs, Array]:
        """Inputs and int64 labels [n, …]."""
        with np.load(self.folder / f"{split}.npz") as arrays:
            return tuple(arrays[f"x{i}"] for i in range(len(arrays) - 1)), arrays["y"]

    def samples(self, n: int) -> Inputs:
        """The first n inputs to calibrate with."""
        return rows(self.data("calibration")[0], slice(n))


@dataclass(frozen=True)
class Form:
    """One way of a peer. build: writes to `job.made`, returns the options to report. open: how to run what was written.

    networks: fnmatch patterns of the networks that it is for. quick: whether quick runs include it. timed: False where
    no runtime reads the form as it is stored.
    """

    name: str
    build: Callable[[Job], Mapping[str, Any]]
    open: Callable[[Job], Run]
    networks: tuple[str, ...] = ("*",)
    quick: bool = True
    timed: bool = True


def rows(inputs: Inputs, where: slice) -> Inputs:
    return tuple(x[where] for x in inputs)


def serve(forms: Sequence[Form], libraries: Mapping[str, str]) -> None:
    """A peer script's main. libraries: distribution name -> module, imported before the build's clock starts."""
    if sys.argv[1:] == ["--forms"]:
        print(json.dumps([{"form": f.name, "networks": f.networks, "quick": f.quick} for f in forms]))
        return
    if len(sys.argv) != 3 or sys.argv[1] not in [f.name for f in forms]:
        sys.exit(f"give --forms, or one of {', '.join(f.name for f in forms)} and a job folder")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    form = next(f for f in forms if f.name == sys.argv[1])
    folder = Path(sys.argv[2]).resolve()
    job = Job(folder, folder / f"{Path(sys.argv[0]).stem}-{form.name}")
    told = _build(form, job, libraries)
    _say(answers, told)
    if told["ready"]:
        _answer(form, job, answers)


def _build(form: Form, job: Job, libraries: Mapping[str, str]) -> dict[str, Any]:
    """The ready line, from a child that has built the form."""
    shutil.rmtree(job.made, ignore_errors=True)
    job.made.mkdir()
    result = job.made.with_suffix(".json")
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            result.write_text(json.dumps(_built(form, job, libraries)))
            code = 0
        except (Exception, SystemExit) as error:  # NNCodec raises the latter
            result.write_text(json.dumps({"ready": False, "reason": f"{type(error).__name__}: {error}"[:500]}))
            raise
        finally:
            if code:
                sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if result.exists():
        return json.loads(result.read_text())
    return {"ready": False, "reason": f"the build ended with {'signal' if status < 0 else 'exit code'} {abs(status)}"}


def _built(form: Form, job: Job, libraries: Mapping[str, str]) -> dict[str, Any]:
    for module in libraries.values():
        importlib.import_module(module)
    began = time.monotonic()
    options = form.build(job)
    return {
        "ready": True,
        "bytes": sum(p.stat().st_size for p in job.made.rglob("*") if p.is_file()),
        "seconds": time.monotonic() - began,
        "versions": {name: importlib.metadata.version(name) for name in libraries},
        "options": dict(options),
    }


def _answer(form: Form, job: Job, answers: Any) -> None:
    run = form.open(job)
    warm: set[int] = set()
    for line in sys.stdin:
        match json.loads(line):
            case {"do": "predict", "split": str(split), "out": str(out)}:
                np.save(out, logits(run, job.data(split)[0]))
                _say(answers, {"done": True})
            case {"do": "time", "batch": int(batch), "seconds": float() | int() as seconds}:
                _say(answers, {"times": _times(run, job, batch, seconds, warm) if form.timed else None})
            case {"do": "memory"}:
                status = Path("/proc/self/status").read_text().split()
                _say(answers, {"bytes": 1024 * int(status[status.index("VmHWM:") + 1])})
            case {"do": "quit"}:
                return
            case other:
                _say(answers, {"error": f"no such question: {other}"})


def logits(run: Run, inputs: Inputs) -> Array:
    """float32 [n, classes, …], in batches."""
    starts = range(0, len(inputs[0]), BATCH)
    return np.concatenate([run(rows(inputs, slice(i, i + BATCH))) for i in starts]).astype(np.float32)


def correct(run: Run, inputs: Inputs, y: Array) -> float:
    """Accuracy in percent."""
    return 100.0 * float((logits(run, inputs).argmax(1) == y).mean())


def _times(run: Run, job: Job, batch: int, seconds: float, warm: set[int]) -> list[float]:
    """Seconds a call; the first of a batch size is not counted, as runtimes prepare in it."""
    inputs = _first(job, batch)
    if batch not in warm:
        run(inputs)
        warm.add(batch)
    times: list[float] = []
    while sum(times) < seconds or not times:
        began = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - began)
    return times


_inputs: dict[int, Inputs] = {}


def _first(job: Job, batch: int) -> Inputs:
    if batch not in _inputs:
        _inputs[batch] = tuple(np.ascontiguousarray(x[:batch]) for x in job.data("test")[0])
    return _inputs[batch]


def _say(answers: Any, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()

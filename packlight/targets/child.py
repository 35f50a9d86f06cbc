"""The child process: converts, opens, runs and times files for its parent (packlight.targets.process starts it).

Imports only what its target needs. Timing happens in here, without a pipe in the loop. The protocol owns
the original standard input and output; native code reads nothing from there, and what it prints goes to
standard error, which the parent keeps.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target
from packlight.targets.frames import read_frame, write_frame

_WATCH_S = 0.5
_WITH_ARRAYS = ("open", "run", "time", "profile")


class _Child:
    """One target and at most one open session; each public method answers one kind of call."""

    def __init__(self, target: Target):
        self.target = target
        self.session: Session | None = None
        self.processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def write(self, model: str, path: str, form: str, dims: dict[str, int]) -> dict[str, Any]:
        import torch

        from packlight.model import Model

        torch.set_num_threads(1)  # converting is Python's work; more threads would only wait for each other
        notes = self.target.write(Model.load(model), Path(path), form, dims)
        return {"versions": self.target.versions(), "notes": list(notes or ())}

    def versions(self) -> dict[str, Any]:
        return dict(self.target.versions())

    def open(self, path: str, threads: int, arrays: list[Any]) -> dict[str, Any]:
        """Open a file, and run it once where arrays are given; seconds of both together are the cold start."""
        if self.processors:
            os.sched_setaffinity(0, self.processors[-threads:])
        before = _resident()
        began = time.perf_counter()
        self.session = self.target.open(Path(path), threads)
        if arrays:
            self.session.run(arrays)
        return {"cold_start_s": time.perf_counter() - began, "resident_before": before}

    def run(self, arrays: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        assert self.session is not None
        return {}, self.session.run(arrays)

    def time(self, seconds: float, least: int, arrays: list[Any]) -> dict[str, Any]:
        """Seconds of each run: at least `least` runs, and at least `seconds` in all."""
        assert self.session is not None
        run, clock = self.session.run, time.perf_counter
        taken: list[float] = []
        end = clock() + seconds
        while len(taken) < least or clock() < end:
            began = clock()
            run(arrays)
            taken.append(clock() - began)
        return {"seconds": taken}

    def profile(self, path: str, threads: int, seconds: float, arrays: list[Any]) -> dict[str, Any]:
        """Median seconds of each operator, in a session of its own: a profiled one is slower."""
        return {"seconds": self.target.profile(Path(path), threads, arrays, seconds)}

    def memory(self) -> dict[str, Any]:
        return {"peak": _peak_resident()}


def _resident() -> int:
    """Bytes of this process in memory; the peak is counted from here on where the system allows it."""
    import psutil

    with contextlib.suppress(OSError):  # not Linux, or not permitted: the peak then includes start-up
        Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def _peak_resident() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)  # type: ignore[attr-defined]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _die_with_parent(parent: int, lifeline: list[int]) -> None:
    """End this process and what it started soon after the parent's end.

    A thread looks who the parent is; it cannot while native code holds the interpreter's lock, so on Linux the
    kernel kills this group as well when the pipe that only the parent holds is closed. (PR_SET_PDEATHSIG would
    fire already when the parent's thread that started this process ends.)
    """
    if sys.platform == "linux":
        import fcntl

        for end in lifeline:
            fcntl.fcntl(end, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)

    def orphaned() -> bool:
        if os.name == "posix":
            return os.getppid() != parent
        import psutil

        return not psutil.pid_exists(parent)

    def watch() -> None:
        while not orphaned():
            time.sleep(_WATCH_S)
        if os.name == "posix":
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _be_considerate() -> None:
    """Go first when the system runs out of memory, leave no core file behind, and say where a crash or hang was."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=False)


def _take_streams() -> tuple[Any, Any]:
    """The protocol's streams, moved away from standard input and output."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return calls, answers


def _reason(error: BaseException) -> str:
    """The first cause of an error: converters wrap it in layers of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _load(address: str) -> Target:
    module, _, name = address.partition(":")
    found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    made: Target = found()
    return made


def main() -> None:
    """Answer calls until the parent closes the connection. sys.argv: as packlight.targets.process gives it."""
    address, parent, *lifeline = sys.argv[2:]
    _die_with_parent(int(parent), [int(end) for end in lifeline])
    _be_considerate()
    calls, answers = _take_streams()
    child = _Child(_load(address))
    while True:
        try:
            header, arrays = read_frame(calls)
        except EOFError:
            return
        call, arguments = header["call"], header["arguments"]
        try:
            method = getattr(child, call)
            result = method(**arguments, arrays=arrays) if call in _WITH_ARRAYS else method(**arguments)
            answer, out = result if isinstance(result, tuple) else (result, [])
            write_frame(answers, {"result": answer}, out)
        except MemoryError:
            write_frame(answers, {"error": "out of memory", "kind": "memory"})
        except PacklightError as error:
            write_frame(answers, {"error": str(error), "kind": "told"})
        except Exception as error:  # noqa: BLE001  (converters raise anything; the parent must hear of it)
            import traceback

            traceback.print_exc(file=sys.stderr)
            write_frame(answers, {"error": _reason(error), "kind": "raised"})

"""The child process: converts, opens, runs and times files for its parent. `python -m packlight.targets.child`.

Imports only what its target needs. Timing happens in here, without a pipe in the loop. The protocol owns
the original standard output; whatever native code prints goes to standard error, which the parent keeps.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.targets.contract import Session, Target
from packlight.targets.frames import read_frame, write_frame


class _Child:
    """One target and at most one open session; each public method answers one kind of call."""

    def __init__(self, target: Target):
        self.target = target
        self.session: Session | None = None

    def write(self, model: str, path: str, form: str, dims: dict[str, int]) -> dict[str, Any]:
        from packlight.model import Model

        self.target.write(Model.load(model), Path(path), form, dims)
        return {"versions": self.target.versions()}

    def open(self, path: str, threads: int, arrays: list[Any]) -> dict[str, Any]:
        """Open a file and run it once; seconds of both together are the cold start."""
        _pin(threads)
        before = _resident()
        began = time.perf_counter()
        self.session = self.target.open(Path(path), threads)
        self.session.run(arrays)
        return {"cold_start_s": time.perf_counter() - began, "resident_before": before}

    def run(self, arrays: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        assert self.session is not None
        return {}, self.session.run(arrays)

    def time(self, seconds: float, least: int, arrays: list[Any]) -> dict[str, Any]:
        """Seconds of each run: at least `least` runs, and at least `seconds` in all."""
        assert self.session is not None
        run, clock, taken = self.session.run, time.perf_counter, []
        end = clock() + seconds
        while len(taken) < least or clock() < end:
            began = clock()
            run(arrays)
            taken.append(clock() - began)
        return {"seconds": taken}

    def memory(self) -> dict[str, Any]:
        return {"peak": _peak_resident(), "resident": _resident()}


def _pin(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[-threads:])


def _resident() -> int:
    """Bytes of this process in memory; the peak is counted from here on where the system allows it."""
    import psutil

    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # not Linux, or not permitted: the peak then includes start-up
    return int(psutil.Process().memory_info().rss)


def _peak_resident() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)  # type: ignore[attr-defined]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _die_with_parent() -> None:
    """End this process within a second of its parent's end, also while native code is busy."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _reason(error: BaseException) -> str:
    """The first cause of an error: converters wrap it in layers of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _load(address: str) -> Target:
    module, _, name = address.partition(":")
    made: Target = getattr(importlib.import_module(module), name)()
    return made


def main() -> None:
    """Answer calls from standard input until it closes."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    child = _Child(_load(sys.argv[1]))
    while True:
        try:
            header, arrays = read_frame(sys.stdin.buffer)
        except EOFError:
            return
        call, arguments = header["call"], header["arguments"]
        try:
            method = getattr(child, call)
            result = method(**arguments, arrays=arrays) if call in ("open", "run", "time") else method(**arguments)
            answer, out = result if isinstance(result, tuple) else (result, [])
            write_frame(answers, {"result": answer}, out)
        except MemoryError:
            write_frame(answers, {"error": "out of memory", "kind": "memory"})
        except PacklightError as error:
            write_frame(answers, {"error": str(error), "kind": "told"})
        except Exception as error:  # a converter may raise anything; the parent must hear of it, not hang
            import traceback

            traceback.print_exc(file=sys.stderr)
            write_frame(answers, {"error": _reason(error), "kind": "raised"})


if __name__ == "__main__":
    main()

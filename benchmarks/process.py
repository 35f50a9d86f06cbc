"""A child process that answers in JSON lines, under a time limit.

A case and every compressed form live in such processes: native code that crashes or hangs becomes one
`WorkerFailure` with its last words, and the rest of the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from benchmarks import ROOT

_GRACE_S = 2.0
_EXIT_S = 30.0  # for one that has closed its output and is on its way out, libraries and all
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM")


class WorkerFailure(Exception):
    """A child process crashed, hung, or answered nonsense; the message is one line."""


class Worker:
    """One child process. Use as a context manager, or call `end`.

    argv: the command. log: a file that takes its standard error; None: ours. threads: of the libraries in it, and
    (where the system can) how many processors it may use. leads: whether it gets a process group of its own, which
    `end` kills whole.
    """

    def __init__(self, argv: Sequence[str], log: Path | None, threads: int, *, leads: bool = False):
        self.log, self._leads = log, leads
        with contextlib.nullcontext() if log is None else open(log, "wb") as errors:
            self._popen = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT,
                env={**os.environ, **pinned(threads)}, start_new_session=leads,
            )  # fmt: skip
        if not leads:
            _pin(self._popen.pid, threads)
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._popen.stdout, self._lines), daemon=True).start()

    def ask(self, message: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """Send one JSON line and wait for the answer, at most `limit` seconds."""
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: `answer` says how
            self._popen.stdin.write(json.dumps(message).encode() + b"\n")
            self._popen.stdin.flush()
        return self.answer(limit, str(message.get("do")))

    def answer(self, limit: float, what: str = "start") -> dict[str, Any]:
        """The next JSON object that the child prints, within `limit` seconds; other lines are chatter."""
        deadline = time.monotonic() + limit
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.end()
                raise WorkerFailure(f"{what} took more than {limit:,.0f} s") from None
            if line is None:
                code = self.end(_EXIT_S)
                ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                raise WorkerFailure(f"{what} ended with {ended}: {self.last_words()}")
            with contextlib.suppress(ValueError):
                if isinstance(found := json.loads(line), dict):
                    return found

    def last_words(self) -> str:
        """The last line of its standard error."""
        if self.log is None:
            return "see above"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else "it said nothing"

    def end(self, grace: float = _GRACE_S) -> int:
        """Close its standard input, give it `grace` seconds, kill it; its exit code (negative: a signal)."""
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL) if self._leads else self._popen.kill()
        return self._popen.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def pinned(threads: int) -> dict[str, str]:
    """Environment variables: how many threads numeric libraries take, where packlight is found, and no telemetry."""
    counts = {f"{library}_NUM_THREADS": str(threads) for library in _THREADS}
    return {**counts, "PACKLIGHT_BENCH_THREADS": str(threads), "PYTHONPATH": str(ROOT),
            "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}  # fmt: skip


def die_with_parent() -> None:
    """End this process group when the parent's end of standard input closes, also when the parent was killed."""

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin: its lock would be held at this process's own end
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _pin(pid: int, threads: int) -> None:
    """To the last processors, as packlight's own children are; where the system has no such thing, not at all."""
    process = psutil.Process(pid)
    if hasattr(process, "cpu_affinity"):
        with contextlib.suppress(psutil.Error):
            process.cpu_affinity(process.cpu_affinity()[-threads:])


def _listen(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)

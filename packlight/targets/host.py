"""The host side of a child process: native converters and runtimes crash, hang and leak in there, not here.

Every call has a time limit and the child a memory limit. A child that breaks either, or dies, becomes one
ChildFailure with its last words, and nothing of it stays behind: it leads a process group of its own, which
is killed as a whole.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import psutil

from packlight.errors import ChildFailure, PacklightError
from packlight.targets.contract import Target
from packlight.targets.frames import read_frame, write_frame

_POLL_S = 0.2
_LAST_WORDS = 4000


class Child:
    """One child process for one target. Use as a context manager, or call `close`.

    memory_limit: bytes of resident memory, its own children included; default: 90 % of what is free now.
    """

    def __init__(self, target: Target, *, memory_limit: int | None = None):
        target.require()
        self.target = target
        self.memory_limit = memory_limit or int(psutil.virtual_memory().available * 0.9)
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "packlight.targets.child", target.address],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            start_new_session=True, env=_environment(),
        )  # fmt: skip
        self._answers: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def call(
        self, what: str, arrays: Sequence[Any] = (), *, time_limit: float, **arguments: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        """Have the child do something; its result and arrays.

        time_limit: seconds. Raises PacklightError for what the child refuses, ChildFailure when it raises,
        dies, or outgrows a limit; after a ChildFailure other than a raised one the child is gone.
        """
        sender = threading.Thread(target=self._send, args=(what, arguments, arrays), daemon=True)
        sender.start()
        header, got = self._wait(what, time.monotonic() + time_limit, time_limit)
        if "error" not in header:
            return header["result"], got
        if header["kind"] == "told":
            raise PacklightError(header["error"])
        raise ChildFailure(f"{self.target.name}: {what} failed: {_first_line(header['error'])}", self.last_words())

    def last_words(self) -> str:
        """The end of what the child wrote to standard error."""
        if self._log.closed:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LAST_WORDS))
        return self._log.read().decode(errors="replace").strip()

    def close(self) -> None:
        """End the child and everything it started."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if stream is self._process.stdin and stream is not None:
                    stream.close()
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._kill()
        self._log.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _listen(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        try:
            while True:
                self._answers.put(read_frame(stream))  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError, MemoryError):
            self._answers.put(None)

    def _send(self, what: str, arguments: dict[str, Any], arrays: Sequence[Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # a dead child is noticed by whoever waits
            write_frame(self._process.stdin, {"call": what, "arguments": arguments}, arrays)  # type: ignore[arg-type]

    def _wait(self, what: str, deadline: float, limit: float) -> tuple[dict[str, Any], list[Any]]:
        while True:
            try:
                answer = self._answers.get(timeout=_POLL_S)
            except queue.Empty:
                used = self._resident()
                if used > self.memory_limit:
                    self._fail(what, f"took {used / 1e9:.1f} GB of memory, limit {self.memory_limit / 1e9:.1f} GB")
                if time.monotonic() > deadline:
                    self._fail(what, f"did not finish within {limit:.0f} s")
                continue
            except KeyboardInterrupt:
                self._kill()
                raise
            if answer is None:
                self._fail(what, self._death())
            return answer  # type: ignore[no-any-return]

    def _resident(self) -> int:
        total = 0
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self._process.pid)
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
        return total

    def _death(self) -> str:
        self._kill()
        code = self._process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"crashed ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"

    def _fail(self, what: str, why: str) -> None:
        self._kill()
        words = self.last_words()
        tail = words.splitlines()[-1] if words else ""
        self.close()
        raise ChildFailure(f"{self.target.name}: {what} {why}{f' — {tail[:200]}' if tail else ''}", words)

    def _kill(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                if os.name == "posix":
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    for process in psutil.Process(self._process.pid).children(recursive=True):
                        process.kill()
                    self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    """The parent's environment, with telemetry switches of well-known packages off."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
            "ORT_DISABLE_TELEMETRY": "1"}  # fmt: skip


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:400]

"""The host side of a child process: native converters and runtimes crash, hang and leak in there, not here.

Every call has a time limit and the child a memory limit. A child that breaks either, or dies, becomes one
ChildFailure with its last words, and nothing of it stays behind.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

import psutil

from packlight.errors import ChildFailure, PacklightError
from packlight.targets.contract import Target
from packlight.targets.frames import pack, read_frame
from packlight.targets.process import Process

_POLL_S = 0.2
_GRACE_S = 0.5
_DYING_S = 5.0

_Answers = queue.SimpleQueue[tuple[dict[str, Any], list[Any]] | EOFError]


class Child:
    """One child process for one target, answering one call at a time. Use as a context manager, or call `close`.

    alive: whether it can be called; it ends when it is closed, and when a call ends in a crash or at a limit.
    memory_limit: bytes of resident memory, its own children included; default: 90 % of what is free now.
    """

    def __init__(self, target: Target, *, memory_limit: int | None = None):
        target.require()
        self.target = target
        self.memory_limit = memory_limit or int(psutil.virtual_memory().available * 0.9)
        self._process = Process(target.address, target.python if target.environment else None)
        self._answers: _Answers = queue.SimpleQueue()
        self._listener = threading.Thread(target=_listen, args=(self._process.stdout, self._answers), daemon=True)
        self._listener.start()
        self._sender: threading.Thread | None = None
        self.alive = True
        self._forgotten = weakref.finalize(self, self._process.end)

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._process.pid

    def call(
        self, what: str, arrays: Sequence[Any] = (), *, time_limit: float, **arguments: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        """Have the child do something; its result and arrays.

        time_limit: seconds. Raises PacklightError for what the child refuses, ChildFailure when it raises,
        dies, or outgrows a limit; after a ChildFailure other than a raised one the child is gone.
        """
        if not self.alive:
            raise ChildFailure(f"{self.target.name}: {what} was asked of a child process that has ended; start another")
        pieces = pack({"call": what, "arguments": arguments}, arrays)
        self._sender = threading.Thread(target=_send, args=(self._process.stdin, pieces), daemon=True)
        self._sender.start()
        try:
            header, got = self._wait(what, time_limit)
        except BaseException:  # an interrupted call leaves a child that is busy with it
            self._end(0.0)
            raise
        if "error" not in header:
            return header["result"], got
        if header["kind"] == "told":
            raise PacklightError(header["error"])
        raise ChildFailure(f"{self.target.name}: {what} failed: {_first_line(header['error'])}", self.last_words())

    def last_words(self) -> str:
        """The end of what the child wrote to standard output and error."""
        return self._process.last_words()

    def close(self) -> None:
        """End the child and everything it started."""
        self._end(_GRACE_S)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, what: str, limit: float) -> tuple[dict[str, Any], list[Any]]:
        deadline = time.monotonic() + limit
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, min(_POLL_S, deadline - time.monotonic())))
            except queue.Empty:
                self._check(what, deadline, limit)
                continue
            if isinstance(answer, EOFError):
                self._fail(what, self._death(str(answer)))
            return answer  # type: ignore[return-value]

    def _check(self, what: str, deadline: float, limit: float) -> None:
        """Fail unless the child is alive and within its limits."""
        self._process.trim_log()
        used = self._process.resident()
        if used > self.memory_limit:
            self._fail(what, f"took {used / 1e9:.1f} GB of memory, the limit is {self.memory_limit / 1e9:.1f} GB")
        if time.monotonic() >= deadline:
            self._process.show_stack()
            self._fail(what, f"did not finish within {limit:g} s")
        if self._process.ended() and self._answers.empty():  # what it started may still hold its pipe open
            self._fail(what, self._death(""))

    def _death(self, heard: str) -> str:
        """Why no answer will come."""
        if not self._process.wait(_DYING_S):
            return f"lost its child process: {heard}"
        code = self._process.end()
        if code >= 0:
            return f"ended its child process with exit code {code}"
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"was killed ({name}), perhaps for lack of memory" if name == "SIGKILL" else f"crashed ({name})"
        return f"crashed (signal {-code})"

    def _fail(self, what: str, why: str) -> None:
        self._end(0.0)
        words = self.last_words()
        tail = _tail(words)
        raise ChildFailure(f"{self.target.name}: {what} {why}{f': {tail}' if tail else ''}", words)

    def _end(self, grace: float) -> None:
        """End the child after `grace` seconds to do so by itself."""
        if not self.alive:
            return
        self.alive = False
        self._forgotten.detach()
        idle = self._sender is None or not self._sender.is_alive()
        if grace and idle:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait(grace)
        self._process.end()
        if self._sender is not None:
            self._sender.join(_GRACE_S)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._listener.join(_GRACE_S)


def _listen(stream: IO[bytes], answers: _Answers) -> None:
    """Hand on what the child says until it ends. A function, so that a forgotten Child can be collected."""
    with stream:
        try:
            while True:
                answers.put(read_frame(stream))  # type: ignore[arg-type]
        except EOFError as error:
            answers.put(error)
        except (OSError, ValueError, MemoryError) as error:
            answers.put(EOFError(str(error) or type(error).__name__))


def _send(stream: IO[bytes], pieces: Sequence[bytes | memoryview]) -> None:
    with contextlib.suppress(OSError, ValueError):  # a dead child is noticed by whoever waits
        for piece in pieces:
            stream.write(piece)
        stream.flush()


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:400]


def _tail(words: str) -> str:
    """The last line that native code wrote, without Python's own report of a crash."""
    for report in ("Fatal Python error:", "Current thread 0x", "Thread 0x", "Stack (most recent call first):"):
        words = words.partition(report)[0]
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""

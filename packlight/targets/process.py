"""A child process as the operating system sees it: in a group of its own, watched, and ended without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import psutil

from packlight.errors import PacklightError

# The parent's sys.path first: a target may live where only the parent was told to look. In another environment that
# one's own comes first, and the folder that we are in last: it may hold another packlight.
_RUN = "from packlight.targets.child import main; main()"
_START = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); {_RUN}"
_START_ELSEWHERE = f"import json, sys; sys.path[:] = [*sys.path[1:], *json.loads(sys.argv[1])]; {_RUN}"
_LAST_WORDS = 8000
_MAX_LOG = 1 << 24
_STACK_S = 0.1


class Process:
    """A Python process that serves one target, and whatever it starts in turn.

    It dies with this process, and so does all that stayed in its process group: on POSIX it holds the end of a pipe
    (the lifeline) whose other end only we hold. `end` also finds what left the group.
    Its standard output and error, below Python's level too, go to a file that nobody sees but `last_words`.
    python: the interpreter to run; default: this one.
    """

    def __init__(self, address: str, python: Path | None = None):
        self._parent = os.getpid()
        path = json.dumps([str(p) for p in sys.path])
        try:
            with contextlib.ExitStack() as held, contextlib.ExitStack() as passed:
                self._log = held.enter_context(tempfile.TemporaryFile())
                lifeline: tuple[int, ...] = ()
                if os.name == "posix":
                    theirs, ours = os.pipe()
                    passed.callback(os.close, theirs)
                    held.callback(os.close, ours)
                    lifeline = (theirs,)
                command = [str(python or sys.executable), "-c", _START_ELSEWHERE if python else _START]
                self._popen = subprocess.Popen(
                    [*command, path, address, str(self._parent), *map(str, lifeline)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=_environment(),
                    start_new_session=True, pass_fds=lifeline,
                )  # fmt: skip
                self._held = held.pop_all()
        except OSError as error:
            raise PacklightError(f"cannot start a child process: {error.strerror or error}") from error
        self.pid = self._popen.pid
        self._leader = psutil.Process(self.pid)
        self._started: set[psutil.Process] = set()
        self._words = ""

    @property
    def stdin(self) -> IO[bytes]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._popen.stdout is not None
        return self._popen.stdout

    def resident(self) -> int:
        """Bytes of memory that the process and all that it started hold now."""
        with contextlib.suppress(psutil.Error):
            self._started.update(self._leader.children(recursive=True))
        total = 0
        for process in (self._leader, *self._started):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def ended(self) -> bool:
        """Whether the process has ended; it stays unreaped until `end`, so that its group's number stays its own."""
        try:
            return bool(self._leader.status() == psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return True

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end by itself; whether it did."""
        deadline, pause = time.monotonic() + seconds, 0.001
        while not self.ended():
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return True

    def show_stack(self) -> None:
        """Have the process write where it is to its log, also when it is stuck in native code."""
        if hasattr(signal, "SIGUSR1") and not self.ended():
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGUSR1)
                self.wait(_STACK_S)

    def end(self) -> int:
        """Kill the process and everything it started, reap it, and let go of all that it held; its exit code.

        Negative codes are signals. May be called again; in a fork of the parent it does nothing.
        """
        if self._popen.returncode is None and os.getpid() == self._parent:
            self.resident()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.name == "posix":
                    os.killpg(self.pid, signal.SIGKILL)
                else:
                    self._popen.kill()
            for process in self._started:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self._popen.wait()
            self._words = self.last_words()
            self._held.close()
        return self._popen.returncode or 0

    def trim_log(self) -> None:
        """Keep a process that prints without end from filling the disk."""
        if getattr(os.fstat(self._log.fileno()), "st_blocks", 0) * 512 > _MAX_LOG:
            os.ftruncate(self._log.fileno(), 0)

    def last_words(self) -> str:
        """The end of what the process wrote to its log."""
        if self._log.closed:
            return self._words
        size = os.fstat(self._log.fileno()).st_size
        if hasattr(os, "pread"):  # the position in the file is the child's, too
            words = os.pread(self._log.fileno(), _LAST_WORDS, max(0, size - _LAST_WORDS))
        else:
            self._log.seek(max(0, size - _LAST_WORDS))
            words = self._log.read()
        return words.decode(errors="replace").strip("\0 \n\r\t")


def _environment() -> dict[str, str]:
    """The parent's environment, with telemetry switches of well-known packages off."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
            "ORT_DISABLE_TELEMETRY": "1"}  # fmt: skip

"""Looking after processes from outside: are they gone, and do they leave anything?"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def gone(pid: int) -> bool:
    """Whether a process is dead. One that is not our child may wait for init to reap it."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid()
    except psutil.NoSuchProcess:
        return True


def soon(true: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Whether something becomes true within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return true()


def pids_in(file: Path) -> list[int]:
    """The process numbers that a fault wrote down."""
    return [int(p) for p in file.read_text().split()]

"""A target whose native code does everything that native code does wrong. Children import it by this module's name."""

import ctypes
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from packlight.errors import PacklightError
from packlight.targets import Session, Target
from packlight.targets.onnxruntime import OnnxRuntime

LAST_WORDS = "libfaulty: assertion failed"


def well(path: Path) -> None:
    pass


def segfault(path: Path) -> None:
    os.write(2, LAST_WORDS.encode() + b"\n")
    ctypes.string_at(0)


def abort(path: Path) -> None:
    os.abort()


def hang(path: Path) -> None:
    time.sleep(1000)


def hang_holding_the_interpreter(path: Path) -> None:
    path.with_suffix(".began").touch()
    ctypes.PyDLL(None).sleep(1000)


def busy_in_native_code(path: Path) -> None:
    path.with_suffix(".began").touch()
    sum(itertools.repeat(0))


def eat_memory(path: Path) -> None:
    eaten = [os.urandom(1 << 20) * 50 for _ in range(40) if time.sleep(0.02) is None]
    time.sleep(1000 + len(eaten))


def have_a_grandchild_eat_memory(path: Path) -> None:
    subprocess.run([sys.executable, "-c", "import os, time; b = os.urandom(1 << 20) * 1000; time.sleep(1000)"])


def run_out_of_memory(path: Path) -> None:
    np.ones(1 << 50, np.uint8)


def raise_an_error(path: Path) -> None:
    try:
        raise ValueError("operator Foo has no kernel\nand here is much advice")
    except ValueError as cause:
        raise RuntimeError("conversion failed, please report it") from cause


def tell_the_user(path: Path) -> None:
    raise PacklightError("this network needs the other form")


def print_garbage(path: Path) -> None:
    os.write(1, b"\x00\xff\x10 converting ... {}\n" * 1000)
    print("[INFO] done", flush=True)  # noqa: T201


def print_without_end(path: Path) -> None:
    while True:
        os.write(1, b"warning\n" * 8192)


def answer_with_garbage(path: Path) -> None:
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"\xff" * 100)
        except OSError:
            continue
    time.sleep(1000)


def exit_zero(path: Path) -> None:
    os._exit(0)


def exit_through_python(path: Path) -> None:
    sys.exit(0)


def close_every_pipe(path: Path) -> None:
    os.closerange(3, 100)
    time.sleep(1000)


def start_grandchildren(path: Path) -> None:
    """One that was executed, one that was forked and holds every pipe, and one in a session of its own."""
    executed = subprocess.Popen(["sleep", "1000"])
    apart = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    forked = os.fork()
    if forked == 0:
        time.sleep(1000)
    path.with_suffix(".pids").write_text(f"{executed.pid} {apart.pid} {forked}")
    time.sleep(0.5)


def start_grandchildren_and_crash(path: Path) -> None:
    start_grandchildren(path)
    ctypes.string_at(0)


def start_grandchildren_and_hang(path: Path) -> None:
    start_grandchildren(path)
    ctypes.PyDLL(None).sleep(1000)


def write_nothing(path: Path) -> None:
    path.unlink(missing_ok=True)


FAULTS: dict[str, Callable[[Path], None]] = {
    f.__name__: f
    for f in (
        well, segfault, abort, hang, hang_holding_the_interpreter, busy_in_native_code, eat_memory,
        have_a_grandchild_eat_memory, run_out_of_memory, raise_an_error, tell_the_user, print_garbage,
        print_without_end, answer_with_garbage, exit_zero, exit_through_python, close_every_pipe, start_grandchildren,
        start_grandchildren_and_crash, start_grandchildren_and_hang, write_nothing,
    )
}  # fmt: skip


class Faulty(Target):
    """Commits the fault that the form names when it writes, and the one that the file's name says when it opens."""

    name = "faulty"
    install = "pip install faulty"
    suffix = ".bin"
    packages = ("numpy",)
    forms = tuple(FAULTS)

    @property
    def numerics(self) -> Any:
        return OnnxRuntime().numerics

    def write(self, model: Any, path: Path, form: str, dims: Mapping[str, int]) -> None:
        path.write_bytes(b"half of a file")
        FAULTS[form](path)

    def open(self, path: Path, threads: int) -> Session:
        FAULTS[path.stem](path)
        return Echo()

    def versions(self) -> dict[str, str]:
        return {"faulty": "1"}


class Echo(Session):
    """Hands back what it is given, then what is left on standard input, and how many processors it may use."""

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        if inputs and inputs[0].size == 0:
            ctypes.string_at(0)
        processors = len(os.sched_getaffinity(0))
        return [*inputs, np.frombuffer(os.read(0, 100), np.uint8), np.array(processors)]


class NotThere(Faulty):
    """A target whose runtime is not installed."""

    name = "notthere"
    install = "pip install 'notthere[runtime]'"
    packages = ("numpy", "packlight_has_no_such_runtime", "packlight_has_no.such_part")


class Unloadable(Faulty):
    """A target that cannot be made in a child."""

    def __init__(self) -> None:
        if "pytest" not in sys.modules:
            raise RuntimeError("licence server not reached")


class SpyingOnnxRuntime(OnnxRuntime):
    """ONNX Runtime, with one more output: whether torch was imported."""

    def open(self, path: Path, threads: int) -> Session:
        return _Spy(super().open(path, threads))


class _Spy(Session):
    def __init__(self, session: Session):
        self._session = session

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        return [*self._session.run(inputs), np.array("torch" in sys.modules)]

"""Every test runs on one thread, so that times and sums do not depend on the machine."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from packlight import cli
from packlight.targets import Child, get

# pytest listens to loggers that do not propagate; hearing a listener, torch writes a trace of every export, which
# takes a third of the time.
logging.getLogger("torch.__trace").propagate = True


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs is not kept between runs of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACKLIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def exporter() -> Iterator[Child]:
    """A child process that converts for ONNX Runtime: starting one takes seconds, so tests may share it."""
    with Child(get("onnxruntime")) as child:
        yield child


Told = tuple[object, str, str]


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Told]]:
    """Run a command line in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    handler = signal.getsignal(signal.SIGTERM)

    def command(*words: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["packlight", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    yield command
    signal.signal(signal.SIGTERM, handler)

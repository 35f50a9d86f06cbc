"""Whatever native code does in a child process is one ChildFailure here, and leaves nothing behind."""

import _thread
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from faulty import LAST_WORDS, Faulty, NotThere, Unloadable
from processes import gone, pids_in, soon

from packlight.errors import ChildFailure, MissingRuntime, PacklightError
from packlight.targets import Child, Target, host, process

LIMIT_S = 30.0
SHORT_S = 0.6
# fault → what the user reads after "faulty: open "
DEATHS = {
    "segfault": f"crashed (SIGSEGV): {LAST_WORDS}",
    "abort": "crashed (SIGABRT)",
    "exit_zero": "ended its child process with exit code 0",
    "exit_through_python": "ended its child process with exit code 0",
    "answer_with_garbage": "lost its child process: the other side sent no message of ours: its header is too long",
    "close_every_pipe": "lost its child process: the other side closed the connection",
}
HANGS = ("hang", "hang_holding_the_interpreter", "busy_in_native_code", "print_without_end")
ANSWERED = {
    "raise_an_error": "failed: ValueError: operator Foo has no kernel",
    "run_out_of_memory": "failed: out of memory",
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(host, "_DYING_S", 3.0)


@pytest.fixture
def child():
    with Child(Faulty()) as child:
        yield child
    assert not psutil.pid_exists(child.pid)


def start(child: Child, fault: str, folder: Path = Path(), limit: float = LIMIT_S):
    return child.call("open", path=str(folder / f"{fault}.bin"), threads=1, time_limit=limit)


def failure(child: Child, fault: str, folder: Path = Path(), limit: float = LIMIT_S) -> ChildFailure:
    """The failure that a fault ends in, after which the child is reaped."""
    with pytest.raises(ChildFailure) as caught:
        start(child, fault, folder, limit)
    assert "\n" not in str(caught.value)
    return caught.value


def test_arrays_go_in_and_come_out(child):
    start(child, "well")
    images = np.arange(6, dtype=np.float16).reshape(2, 3)
    _, (back, rest, processors) = child.call("run", [images], time_limit=LIMIT_S)
    np.testing.assert_array_equal(back, images)
    assert rest.size == 0  # native code finds nothing on standard input, least of all the protocol
    assert processors == 1


@pytest.mark.parametrize(("fault", "reason"), DEATHS.items(), ids=DEATHS)
def test_a_death_is_one_line_that_names_target_call_and_reason(child, fault, reason):
    assert str(failure(child, fault)) == f"faulty: open {reason}"
    assert not psutil.pid_exists(child.pid)


def test_a_crash_during_a_run_names_the_run(child):
    start(child, "well")
    with pytest.raises(ChildFailure, match=r"^faulty: run crashed \(SIGSEGV\)$"):
        child.call("run", [np.zeros(0)], time_limit=LIMIT_S)


def test_the_log_of_a_crash_holds_the_last_words_and_the_place(child):
    log = failure(child, "segfault").log
    assert LAST_WORDS in log and LAST_WORDS in child.last_words()
    assert "in segfault" in log


@pytest.mark.parametrize("fault", HANGS)
def test_a_hang_ends_within_the_limit(child, fault, tmp_path):
    start(child, "well")
    began = time.monotonic()
    error = failure(child, fault, tmp_path, SHORT_S)
    assert time.monotonic() - began < SHORT_S + 2.0
    assert fault == "print_without_end" or f"in {fault}" in error.log
    assert str(error).startswith("faulty: open did not finish within 0.6 s")
    assert not psutil.pid_exists(child.pid)


def test_a_child_that_prints_without_end_does_not_fill_the_disk(child, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_MAX_LOG", 1 << 14)
    trimmed = []
    trim = process.os.ftruncate
    monkeypatch.setattr(process.os, "ftruncate", lambda *where: trimmed.append(trim(*where)))
    failure(child, "print_without_end", limit=4 * SHORT_S)
    assert trimmed


@pytest.mark.parametrize(("fault", "reason"), ANSWERED.items(), ids=ANSWERED)
def test_an_error_is_told_in_one_line_and_the_child_goes_on(child, fault, reason):
    assert str(failure(child, fault)) == f"faulty: open {reason}"
    start(child, "well")


def test_the_log_of_an_error_holds_the_whole_traceback(child):
    log = failure(child, "raise_an_error").log
    assert "much advice" in log and "please report it" in log


def test_what_a_target_tells_the_user_is_passed_on_as_it_is(child):
    with pytest.raises(PacklightError, match=r"^this network needs the other form$") as caught:
        start(child, "tell_the_user")
    assert not isinstance(caught.value, ChildFailure)


def test_garbage_on_standard_output_disturbs_nothing(child):
    start(child, "print_garbage")
    assert "[INFO] done" in child.last_words()
    _, out = child.call("run", [np.ones(2)], time_limit=LIMIT_S)
    assert len(out) == 3


@pytest.mark.parametrize("fault", ["eat_memory", "have_a_grandchild_eat_memory"])
def test_a_child_that_outgrows_its_memory_is_ended(fault):
    with Child(Faulty(), memory_limit=300 << 20) as child:
        error = failure(child, fault)
        assert "GB of memory, the limit is 0.3 GB" in str(error)
        assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize(
    ("fault", "limit", "reason"),
    [
        ("start_grandchildren_and_crash", LIMIT_S, "crashed (SIGSEGV)"),
        ("start_grandchildren_and_hang", 2.0, "did not finish within 2 s"),
    ],
    ids=["crash", "hang"],
)
def test_grandchildren_that_hold_every_pipe_die_with_a_child_that_fails(child, fault, limit, reason, tmp_path):
    assert str(failure(child, fault, tmp_path, limit)) == f"faulty: open {reason}"
    pids = pids_in(tmp_path / f"{fault}.pids")
    assert len(pids) == 3
    assert soon(lambda: all(map(gone, pids)))


def test_grandchildren_die_when_the_child_is_closed(tmp_path):
    with Child(Faulty()) as child:
        start(child, "start_grandchildren", tmp_path)
    assert soon(lambda: all(map(gone, pids_in(tmp_path / "start_grandchildren.pids"))))


def test_after_a_failure_the_child_says_that_it_is_gone(child):
    assert child.alive
    failure(child, "exit_zero")
    assert not child.alive
    with pytest.raises(ChildFailure, match="has ended; start another"):
        start(child, "well")
    child.close()
    child.close()


def test_an_interrupt_ends_the_child_at_once(child):
    start(child, "well")
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        start(child, "hang")
    assert not psutil.pid_exists(child.pid)


def test_a_call_that_cannot_be_sent_leaves_the_child_usable(child):
    with pytest.raises(PacklightError, match="only numbers"):
        child.call("run", [np.array(["text"])], time_limit=LIMIT_S)
    start(child, "well")


def test_many_children_leak_no_file_thread_or_process():
    def use():
        with Child(Faulty()) as child:
            start(child, "well")

    use()
    me = psutil.Process()
    before = me.num_fds(), threading.active_count(), len(me.children())
    for _ in range(4):
        use()
    for fault in ("segfault", "exit_zero"):
        with Child(Faulty()) as child:
            failure(child, fault)
    assert (me.num_fds(), threading.active_count(), len(me.children())) == before


def test_a_fork_of_the_parent_does_not_end_the_parents_child(child):
    start(child, "well")
    fork = os.fork()
    if fork == 0:
        try:
            child._process.end()
        finally:
            os._exit(0)
    os.waitpid(fork, 0)
    assert len(child.call("run", [], time_limit=LIMIT_S)[1]) == 2


def test_a_forgotten_child_is_ended():
    child = Child(Faulty())
    start(child, "well")
    pid = child.pid
    del child
    gc.collect()
    assert not psutil.pid_exists(pid)


PARENT = """
import sys
from pathlib import Path
from faulty import Faulty
from packlight.targets import Child
child = Child(Faulty())
print(child.pid, flush=True)
child.call("open", path=sys.argv[1], threads=1, time_limit=600)
"""


@pytest.mark.parametrize(
    "fault", ["hang_holding_the_interpreter", "busy_in_native_code", "start_grandchildren_and_hang"]
)
def test_a_child_dies_with_its_parent_also_when_native_code_holds_the_interpreter(fault, tmp_path):
    path = tmp_path / f"{fault}.bin"
    marks = path.with_suffix(".began"), path.with_suffix(".pids")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path)], stdout=subprocess.PIPE, env=environment, text=True
    )
    with parent:
        pids = [int(parent.stdout.readline())]
        assert soon(lambda: any(m.exists() for m in marks), 10)
        apart = []
        if marks[1].exists():
            executed, *apart, forked = pids_in(marks[1])
            pids += [executed, forked]
        time.sleep(0.1)
        parent.send_signal(signal.SIGKILL)
    assert soon(lambda: all(map(gone, pids)), 1.5)
    for pid in apart:  # nobody is left who knows of it
        os.kill(pid, signal.SIGKILL)


def test_a_child_survives_the_thread_that_started_it():
    made = []
    thread = threading.Thread(target=lambda: made.append(Child(Faulty())))
    thread.start()
    thread.join()
    with made[0] as child:
        start(child, "well")


def test_a_child_can_use_more_threads_after_fewer(child):
    processors = len(os.sched_getaffinity(0))
    for threads in (1, processors):
        child.call("open", path="well.bin", threads=threads, time_limit=LIMIT_S)
        _, out = child.call("run", [], time_limit=LIMIT_S)
        assert out[-1] == threads


def test_a_missing_runtime_is_told_before_a_process_starts():
    with pytest.raises(MissingRuntime) as caught:
        Child(NotThere())
    assert str(caught.value) == (
        "target 'notthere' needs packlight_has_no_such_runtime, packlight_has_no.such_part, not installed here; "
        "run: pip install 'notthere[runtime]'"
    )


def test_a_target_that_the_child_cannot_make_is_one_line():
    with Child(Unloadable()) as child, pytest.raises(ChildFailure, match="exit code 1: RuntimeError: licence server"):
        start(child, "well")


def test_a_target_that_no_child_could_import_is_refused():
    class Local(Faulty):
        pass

    with pytest.raises(PacklightError, match="move it to a file of its own"):
        Child(Local())


def test_a_child_finds_targets_where_only_the_parent_was_told_to_look(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("import faulty\nclass Elsewhere(faulty.Faulty): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from elsewhere import Elsewhere

    target: Target = Elsewhere()
    with Child(target) as child:
        start(child, "well")


def test_a_child_does_not_take_modules_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    with Child(Faulty()) as child:
        start(child, "well")


def test_no_process_can_be_started_is_one_line(monkeypatch):
    def refuse(*command, **settings):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = psutil.Process().num_fds()
    monkeypatch.setattr(process.subprocess, "Popen", refuse)
    with pytest.raises(PacklightError, match="cannot start a child process: Resource temporarily unavailable"):
        Child(Faulty())
    assert psutil.Process().num_fds() == before

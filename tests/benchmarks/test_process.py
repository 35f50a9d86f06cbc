"""Child processes: answers, limits, crashes, threads, and that nothing stays behind."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import ROOT
from benchmarks.process import Worker, WorkerFailure

LIMIT_S = 30.0


def worker(tmp_path, code, **options):
    return Worker([sys.executable, "-c", code], tmp_path / "log", 1, **options)


def gone(pid):
    """Whether a process has ended within a few seconds."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_answers_are_json_objects_and_other_lines_are_chatter(tmp_path):
    code = "import json; print('hello\\n[1]\\n3'); print(json.dumps({'got': json.loads(input())}))"
    with worker(tmp_path, code) as child:
        assert child.ask({"do": "x"}, LIMIT_S) == {"got": {"do": "x"}}


def test_a_hang_is_told_with_the_limit(tmp_path):
    with worker(tmp_path, "import time; time.sleep(60)") as child, pytest.raises(WorkerFailure, match="more than 1 s"):
        child.answer(1.0, "building")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        pytest.param("raise SystemExit('no licence')", "exit code 1: no licence", id="exit"),
        pytest.param("import os; os.abort()", "signal SIGABRT", id="signal"),
        pytest.param("1 / 0", "exit code 1: ZeroDivisionError: division by zero", id="exception"),
        pytest.param(
            "import atexit, os, time; atexit.register(time.sleep, 3); os.close(1); 1 / 0",
            "exit code 1: ZeroDivisionError",
            id="slow to leave",
        ),
    ],
)
def test_a_crash_is_told_with_its_last_words(tmp_path, code, told):
    with worker(tmp_path, code) as child, pytest.raises(WorkerFailure, match=told):
        child.ask({"do": "predict"}, LIMIT_S)


def test_threads_and_processors_are_pinned(tmp_path):
    code = (
        "import json, os, time; time.sleep(0.5); e = os.environ\n"
        "print(json.dumps({'omp': e['OMP_NUM_THREADS'], 'ours': e['PACKLIGHT_BENCH_THREADS'],"
        "'processors': len(os.sched_getaffinity(0))}))"
    )
    with worker(tmp_path, code) as child:
        assert child.answer(LIMIT_S) == {"omp": "1", "ours": "1", "processors": 1}


def test_a_leader_takes_its_whole_group_along(tmp_path):
    code = (
        "import json, subprocess, time; p = subprocess.Popen(['sleep', '60'])\n"
        "print(json.dumps({'pid': p.pid}), flush=True); time.sleep(60)"
    )
    with worker(tmp_path, code, leads=True) as child:
        grandchild = child.answer(LIMIT_S)["pid"]
    assert gone(grandchild)


def test_a_case_dies_with_the_run_that_started_it(tmp_path):
    case = "from benchmarks.process import die_with_parent; import time; die_with_parent(); time.sleep(60)"
    run = (
        "import sys, time; from pathlib import Path; from benchmarks.process import Worker\n"
        f"w = Worker([sys.executable, '-c', {case!r}], None, 1, leads=True)\n"
        "print(w._popen.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1)
    assert psutil.pid_exists(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(child)

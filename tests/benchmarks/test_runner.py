"""The runner protocol: what well-behaved and broken peer scripts come out as."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.forms import Form, listed
from benchmarks.process import WorkerFailure
from benchmarks.runner import FormRunner
from packlight import PacklightError

PEER = """
import json, sys
import numpy as np
if sys.argv[1] == "--forms":
    print({forms!r})
    raise SystemExit
print(json.dumps({ready!r}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    print("chatter", flush=True)
    if asked["do"] == "predict":
        {predict}
        print(json.dumps({{"done": True}}), flush=True)
    elif asked["do"] == "time":
        print(json.dumps({times!r}), flush=True)
"""
READY = {"ready": True, "bytes": 10, "seconds": 0.5, "versions": {"lib": "1.0"}, "options": {"bits": 8}}
FORMS = '[{"form": "small", "networks": ["res*"], "quick": true}]'


def script(tmp_path, ready=READY, predict="pass", times=None, forms=FORMS):
    path = tmp_path / "peer.py"
    path.write_text(PEER.format(ready=ready, predict=predict, times=times or {"times": [0.1, 0.2]}, forms=forms))
    return path


def run(tmp_path, **broken):
    form = Form(script(tmp_path, **broken), "small", ("*",), True)
    return FormRunner(form, tmp_path, Path(sys.executable), build_limit=30.0)


def logits(expression):
    return f"np.save(asked['out'], {expression})"


def test_a_peer_says_what_it_built_and_answers(tmp_path):
    runner = run(tmp_path, predict=logits("np.eye(3)"))
    try:
        assert (runner.bytes, runner.build_s, runner.versions, runner.options) == (10, 0.5, {"lib": "1.0"}, {"bits": 8})
        assert runner.predict("test", 3).tolist() == np.eye(3).tolist()
        assert runner.time(1, 0.01) == [0.1, 0.2]
    finally:
        runner.close()


def test_a_form_that_is_only_stored_has_no_times(tmp_path):
    runner = run(tmp_path, times={"times": None})
    assert runner.time(1, 0.01) is None
    runner.close()


@pytest.mark.parametrize(
    ("ready", "told"),
    [
        pytest.param({"ready": False, "reason": "needs AVX-512"}, "^needs AVX-512$", id="it says why not"),
        pytest.param({"hello": 1}, "answered", id="another answer"),
        pytest.param({**READY, "bytes": 0}, "bytes is 0", id="nothing deployed"),
        pytest.param({**READY, "bytes": "1 kB"}, "bytes is '1 kB'", id="bytes in words"),
        pytest.param({**READY, "seconds": -1}, "seconds is -1", id="built before it began"),
    ],
)
def test_a_build_without_result_is_a_failure_with_the_reason(tmp_path, ready, told):
    with pytest.raises(WorkerFailure, match=told):
        run(tmp_path, ready=ready)


@pytest.mark.parametrize(
    ("predict", "told"),
    [
        pytest.param("pass", "predict wrote no array", id="nothing written"),
        pytest.param(logits("np.eye(2)"), r"shape \[2, 2\]", id="too few samples"),
        pytest.param(logits("np.full((3, 3), np.nan)"), "NaN", id="NaN"),
        pytest.param("import os; os.kill(os.getpid(), 11)", "predict ended with signal SIGSEGV", id="crash"),
        pytest.param("raise ValueError('odd shape')", "ValueError: odd shape", id="exception"),
    ],
)
def test_wrong_logits_are_a_failure(tmp_path, predict, told):
    runner = run(tmp_path, predict=predict)
    with pytest.raises(WorkerFailure, match=told):
        runner.predict("test", 3)
    runner.close()


@pytest.mark.parametrize("times", [{"times": []}, {"times": [0.1, -1.0]}, {"error": "what?"}], ids=str)
def test_wrong_times_are_a_failure(tmp_path, times):
    runner = run(tmp_path, times=times)
    with pytest.raises(WorkerFailure, match="wanted positive seconds"):
        runner.time(1, 0.01)
    runner.close()


def test_a_peer_lists_its_forms(tmp_path):
    (form,) = listed(script(tmp_path))
    assert form.label == "peer small"
    assert form.fits("resnet20", quick=True)
    assert not form.fits("lenet5", quick=True)


@pytest.mark.parametrize("forms", ["", "{}x", '[{"form": "small"}]', "3"])
def test_a_list_of_forms_that_is_none_is_one_clear_line(tmp_path, forms):
    with pytest.raises(PacklightError, match=r"peer\.py --forms gave no list of forms"):
        listed(script(tmp_path, forms=forms))

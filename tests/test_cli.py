"""The command line: exit codes, one clear line for bad input, JSON that is only JSON, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from disks import mounted
from small_tasks import trained

import packlight as pl
from packlight import targets
from packlight.errors import ChildFailure
from packlight.files import write_text

ROOT = Path(__file__).parents[1]

TASK_FILE = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from small_tasks import digits
import packlight as pl
task = digits({changes})
"""

USER_CODE = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    print("building the network")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.zeros(2, 1, 8, 8)


def raises():
    raise RuntimeError("no such checkpoint")


def exits():
    raise SystemExit(0)


def bare():
    return nn.Linear(3, 3)


def number():
    return 7


def sick():
    module, example = net()
    with torch.no_grad():
        module[1].weight[0, 0] = float("nan")
    return module, example
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a user has: a saved network, code, and task files, good and bad."""
    place = tmp_path_factory.mktemp("user")
    trained().save(place / "net.plm")
    pl.load(torch.nn.Linear(3, 3), torch.zeros(2, 3)).save(place / "other.plm")
    (place / "cut.plm").write_bytes((place / "net.plm").read_bytes()[:-1000])
    (place / "short.plm").write_bytes(b"\x10")
    for name in ("net.onnx", "net.pt", "net.keras"):
        (place / name).write_bytes(b"bytes")
    (place / "usercode.py").write_text(USER_CODE)
    x, y = "digits().test.inputs[0]", "digits().test.targets"
    tasks = {
        "good": "",
        "nan": f"validation=(np.where({x} == {x}[0, 0, 3, 3], np.nan, {x}).astype(np.float32), {y})",
        "labels": f"validation=({x}, {y} + 1)",
        "test_labels": f"test=({x}, {y} + 1)",
        "empty": f"calibration={x}[:0]",
        "shape": f"validation=({x}[:, :, :7], {y})",
        "unlabelled": f"validation={x}, test={x}",
    }
    for name, changes in tasks.items():
        (place / f"{name}.py").write_text(TASK_FILE.format(tests=str(ROOT / "tests"), changes=changes))
    (place / "crash.py").write_text("task = 1 / 0\n")
    (place / "none.py").write_text("other = 3\n")
    return place


@pytest.fixture
def run(folder, monkeypatch, command_line):
    monkeypatch.chdir(folder)
    return command_line


def one_line(error: str) -> str:
    """The message, which must be the only thing said."""
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("packlight: ")
    return lines[0]


# bad input


COMPRESS = ("compress", "net.plm", "--task", "good.py", "--out", "out")


def compress(**changes: str) -> tuple[str, ...]:
    words = {"model": "net.plm", "task": "good.py", **changes}
    more = [w for k, v in words.items() if k not in ("model", "task") for w in (f"--{k}", v)]
    return ("compress", words["model"], "--task", words["task"], "--out", "out", *more)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (compress(model="gone.plm"), "gone.plm does not exist; give a .plm, .plt, .onnx or .pt2 file, or mod"),
        (compress(model="."), r"\. is a folder; give a .plm, .plt, .onnx or .pt2 file"),
        (compress(model="cut.plm"), "cut.plm is no packlight model or is damaged"),
        (compress(model="short.plm"), "short.plm is no packlight model or is damaged"),
        (compress(model="net.onnx"), "net.onnx is not a sound ONNX file"),
        (compress(model="net.keras"), "net.keras is not a Keras 3 file, or damaged"),
        (compress(model="net.pt"), ".pt files hold weights.*give module:factory"),
        (compress(model="usercode:raises"), "usercode:raises failed: RuntimeError: no such checkpoint"),
        (compress(model="usercode:exits"), "usercode:exits failed: SystemExit"),
        (compress(model="usercode:missing"), "usercode:missing failed: AttributeError"),
        (compress(model="nowhere:net"), "nowhere:net failed: ModuleNotFoundError"),
        (compress(model="usercode:bare"), "example_inputs"),
        (compress(model="usercode:number"), "must return a torch module and its example inputs, got int"),
        (compress(model="usercode:sick"), "1 of 640 values of '1.weight' are NaN"),
        (compress(model="other.plm"), r"got shape \[1, 1, 8, 8\], the model takes float32\[batch, 3\]"),
        (compress(task="nan.py"), "values are NaN or infinite"),
        (compress(task="labels.py"), "labels range from 1 to 10, the network has classes 0 to 9"),
        (compress(task="test_labels.py"), "test data of task 'digits': labels range from 1 to 10"),
        (compress(task="empty.py"), "the calibration data of task 'digits' is empty"),
        (compress(task="shape.py"), "validation data of task 'digits'.*shape"),
        (compress(task="unlabelled.py"), "has no targets"),
        (compress(task="crash.py"), "crash.py failed: ZeroDivisionError"),
        (compress(task="none.py"), "none.py must define `task`"),
        (compress(task="gone.py"), "no file gone.py"),
        (compress(task="mnist"), "no task 'mnist'; built in are fashion-mnist"),
        (compress(target="tflite"), "no target 'tflite'; known are onnxruntime"),
        (compress(budget="drop<=lots"), "budget 'drop<=lots' is neither a limit nor a goal"),
        (compress(budget="speed<=1%"), "'speed' is not measured; choose one of drop, latency"),
        (compress(time="soon"), "time limit 'soon': give a positive time, e.g. 90s"),
        (compress(exclude="hed"), "no layer matches 'hed'; did you mean head"),
        (compress(nonsense="1"), "No such option.*--nonsense.*see `packlight --help`"),
        (("compress", "net.plm"), "Missing option.*--task"),
        (("squash", "net.plm"), "No such command 'squash'"),
        (("inspect", "net.plm", "--batch", "0"), "'--batch': .*greater than or equal to 1"),
        (("inspect", "net.plm", "--batch", "many"), "'--batch': .*valid integer"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "q.onnx"), "networks are saved as .plm files"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "no/q.plm"), "folder no does not exist"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "q.plm", "--ranges", "kl"), "choose mse, minmax"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "q.plm", "--samples", "0"), "samples >= 1"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "q.plm", "--weights", "1"), "weights takes 2 to 8 bits"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "q.plm", "--layer", "head"), "e.g. 'head\\*=8'"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "q.plm", "--layer", "hed=4"), "did you mean head"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "q.plm", "--rounding", "up"), "choose nearest, gptq"),
        (("share-weights", "net.plm", "--out", "s.plm", "--kind", "log"), "choose kmeans, powers, binary, ternary"),
        (("share-weights", "net.plm", "--out", "s.plm", "--bits", "9"), "takes 1 to 8 bits, got 9"),
        (("share-weights", "net.plm", "--out", "s.plm", "--layer", "head"), "e.g. 'head\\*=8'"),
        (("compare-layers", "net.plm", "net.plm", "--task", "good.py"), "no layer with quantized weights"),
        (("compare-layers", "net.plm", "gone.plm", "--task", "good.py"), "gone.plm does not exist"),
        (("quantize", "net.plm", "--task", "good.py", "--out", "q.plm", "--exclude", "x"), "no layer matches 'x'"),
        (("finetune", "net.plm", "--task", "good.py", "--out", "f.plm", "--epochs", "-1"), "epochs > 0"),
        (("finetune", "net.plm", "--task", "good.py", "--out", "f.plm", "--teacher", "gone.plm"), "gone.plm does not"),
        (("finetune", "net.plm", "--task", "good.py", "--out", "f.plm", "--log", "x.html"), "name it run.jsonl"),
        (("finetune", "net.plm", "--task", "good.py", "--out", "f.plm", "--log", "no/x.jsonl"), "folder no does not"),
        (("finetune", "net.plm", "--task", "good.py", "--out", "f.plm", "--seed", "-1"), "seed >= 0"),
        (("export", "net.plm", "net.tflite"), "onnxruntime files end in '.onnx'"),
        (("export", "net.plm", "out.onnx", "--form", "int4"), "no form 'int4'; choose one of float32, float16"),
        (("measure", "gone.onnx", "--task", "good.py"), "no file or folder gone.onnx"),
        (("measure", "net.onnx", "--task", "good.py"), "no manifest beside net.onnx"),
        (("measure", "net.plm", "--task", "good.py", "--split", "holdout"), "holdout"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing_behind(run, folder, words, said):
    before = sorted(p.name for p in folder.iterdir() if p.name != "__pycache__")
    code, out, error = run(*words)
    assert code == 2, error
    assert out.replace("building the network\n", "") == ""
    assert re.search(said, one_line(error)), error
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before


def test_an_output_folder_that_cannot_be_written_to_is_refused_before_any_work(run, folder, monkeypatch):
    monkeypatch.setattr(pl, "compress", None)
    code, _, error = run("compress", "net.plm", "--task", "good.py", "--out", "net.plm/out")
    assert code == 2
    assert "cannot write to folder net.plm/out: Not a directory" in one_line(error)


def test_a_read_only_output_folder_is_refused_before_any_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pl, "compress", None)
    with mounted(tmp_path / "disk", "ro") as disk:
        code, _, error = run("compress", "net.plm", "--task", "good.py", "--out", disk / "out")
        assert code == 2
        assert "Read-only file system" in one_line(error)
        code, _, error = run("quantize", "net.plm", "--task", "good.py", "--out", disk / "q.plm")
        assert code == 2
        assert "Read-only file system" in one_line(error)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(run, tmp_path, monkeypatch):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        monkeypatch.setattr(Found, "save", lambda _, out: write_text(out / "report.html", "x" * 200_000))
        monkeypatch.setattr(pl, "compress", lambda *_, **__: Found(met=True, proven=True))
        code, out, error = run("compress", "net.plm", "--task", "good.py", "--out", disk / "out")
        assert (code, out) == (2, "")
        assert "No space left on device" in one_line(error)
        assert not list(disk.iterdir())


def test_a_runtime_that_is_not_installed_names_the_line_that_brings_it(run, monkeypatch):
    monkeypatch.setattr(type(targets.get("onnxruntime")), "packages", ("onnxruntime_that_nobody_has",))
    code, _, error = run(*COMPRESS)
    assert code == 2
    assert "needs onnxruntime_that_nobody_has, not installed here; run: pip install" in one_line(error)
    assert not Path("out").exists()
    code, out, _ = run("targets", "--json")
    assert code == 0 and json.loads(out)[0]["state"].startswith("missing: pip install")


def test_a_converter_that_crashes_is_one_line_and_its_last_words_come_when_asked_for(run, monkeypatch):
    def crash(*_, **__):
        raise ChildFailure("onnxruntime: write crashed (SIGSEGV)", "last words\nof the converter")

    monkeypatch.setattr(pl, "export", crash)
    code, _, error = run("export", "net.plm", "out.onnx")
    assert code == 2
    assert one_line(error).startswith("packlight: onnxruntime: write crashed (SIGSEGV); `packlight --verbose")
    _, _, error = run("--verbose", "export", "net.plm", "out.onnx")
    assert "last words\nof the converter" in error


def test_a_fault_of_our_own_is_told_apart_from_a_missed_budget(run, monkeypatch):
    monkeypatch.setattr(pl, "statistics", lambda *_: 1 / 0)
    code, _, error = run("inspect", "net.plm")
    assert code == 3
    assert "Traceback" in error and "a fault of packlight's own" in error.splitlines()[-1]


# what works


def test_the_version_and_the_help_are_printed(run):
    assert run("--version") == (0, f"packlight {pl.__version__}\n", "")
    code, out, _ = run("compress", "--help")
    assert code == 0 and "--budget" in out
    assert run() == run("--help")
    assert run()[0] == 0


def test_inspect_shows_every_layer_and_the_sums(run):
    code, out, error = run("inspect", "net.plm", "--batch", "4")
    assert (code, error) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["stem", "norm", "relu"]
    assert "4×16×8×8" in out
    assert "takes   x: float32[batch, 1, 8, 8]" in out
    assert "parameters" in out


def test_json_is_the_only_thing_on_standard_output_even_when_users_code_prints(run):
    code, out, error = run("inspect", "usercode:net", "--json")
    assert code == 0
    assert json.loads(out)["params"] == 650
    assert "building the network" in error


def test_targets_are_listed(run):
    code, out, _ = run("targets")
    assert code == 0
    assert "onnxruntime" in out and "installed" in out and "float32, float16, int8" in out


def test_quantize_saves_a_model_that_measures_like_one(run, tmp_path):
    words = ("--exclude", "head", "--equalize", "--correct-bias")
    code, out, error = run("quantize", "net.plm", "--task", "good.py", "--out", tmp_path / "q.plm", *words)
    assert (code, error) == (0, "")
    assert "equalize=True, correct_bias=True" in out
    assert "note: head stays in float: excluded by name" in out and "wrote" in out
    code, out, _ = run("measure", tmp_path / "q.plm", "--task", "good.py", "--json")
    assert code == 0
    found = json.loads(out)["quality"]
    assert found["value"] > 90 and found["n"] == 397


def test_share_weights_saves_a_small_model_that_measures_like_one(run, tmp_path):
    words = ("--bits", "3", "--layer", "head=4", "--exclude", "stem", "--task", "good.py")
    code, out, error = run("share-weights", "net.plm", "--out", tmp_path / "s.plm", *words)
    assert (code, error) == (0, "")
    assert "note: stem stays in float: excluded by name" in out and "wrote" in out
    code, out, _ = run("inspect", tmp_path / "s.plm", "--json")
    bits = {layer["name"]: layer["weight_bits"] for layer in json.loads(out)["layers"]}
    assert (code, bits["body"], bits["head"], bits["stem"]) == (0, 3, 4, 0)
    code, out, _ = run("measure", tmp_path / "s.plm", "--task", "good.py", "--json")
    assert code == 0 and json.loads(out)["quality"]["value"] > 85


def test_layers_that_depart_are_named_with_cause_and_remedy(run, tmp_path):
    words = ("--layer", "body=2", "--layer", "stem=4", "--rounding", "gptq")
    assert run("quantize", "net.plm", "--task", "good.py", "--out", tmp_path / "q.plm", *words)[0] == 0
    seen = ("compare-layers", "net.plm", tmp_path / "q.plm", "--task", "good.py", "--json", "--target", "onnxruntime")
    code, out, error = run(*seen)
    assert code == 0, error
    first = json.loads(out)["layers"][0]
    assert (code, first["layer"], first["cause"]) == (0, "body", "few steps for its weights")
    code, out, _ = run("compare-layers", "net.plm", tmp_path / "q.plm", "--task", "good.py", "--most", "2")
    assert code == 0 and "body" in out and "few steps for its weights" in out and "and 1 layers that do better" in out
    code, _, error = run("compare-layers", tmp_path / "q.plm", tmp_path / "q.plm", "--task", "good.py")
    assert code == 2 and "is quantized; give the float network" in one_line(error)


def test_finetune_trains_and_saves(run, tmp_path):
    words = ("finetune", "net.plm", "--task", "good.py", "--out", tmp_path / "f.plm", "--epochs", "0.1", "--json")
    code, out, _ = run(*words, "--teacher", "net.plm")
    assert code == 0
    assert "finetune" in json.loads(out)["model"]
    assert (tmp_path / "f.plm").is_file()


def ledger(name: str = "baseline") -> dict:
    number = {"value": 90.0, "unit": "%", "n": 100, "low": 80.0, "high": 95.0}
    ratio = {"value": 0.5, "unit": "×", "n": 25, "low": 0.45, "high": 0.55}
    measured = dict.fromkeys(("quality", "agreement"), number) | {
        "drop_points": {**number, "value": 0.1, "low": -0.1, "high": 0.3, "unit": "points"},
        "file_ratio": ratio, "latency_ratio": ratio, "latency_ms": {**ratio, "unit": "ms"},
        "file_bytes": {**number, "value": 316_530, "unit": "bytes"},
    }  # fmt: skip
    notes = [f"layer{i} stays in float: excluded by name" for i in range(6)]
    return {"name": name, "artifact": f"{name}.onnx", "split": "test", "refused": None, "notes": notes,
            "measurements": measured}  # fmt: skip


class Found(SimpleNamespace):
    def save(self, out):
        (out / "result.json").write_text("{}")

    def as_json(self):
        refused = ledger("float16") | {"split": "validation", "refused": "slower than the float baseline"}
        return {"baseline": ledger(), "best": ledger("int8"), "candidates": [ledger("int8"), refused],
                "metric": "accuracy", "budget": "drop<=1%, latency:min", "met": self.met, "proven": self.proven,
                "reason": "drop<=1%: told", "notes": ["no validation data"],
                "skipped": {"int8-minmax": "int8 keeps the budget already"}}  # fmt: skip


@pytest.mark.parametrize(
    ("met", "proven", "more", "code"),
    [(True, True, (), 0), (True, False, (), 0), (True, False, ("--prove",), 1), (False, False, (), 1)],
    ids=["proven", "met", "met where proof was asked for", "missed"],
)
def test_the_exit_code_says_whether_the_budget_is_met(run, monkeypatch, tmp_path, met, proven, more, code):
    monkeypatch.setattr(pl, "compress", lambda *_, **__: Found(met=met, proven=proven))
    got, out, error = run("compress", "net.plm", "--task", "good.py", "--out", tmp_path / "out", *more)
    assert (got, error) == (code, "")
    assert ("NOT met" in out) == (not met)
    assert (tmp_path / "out" / "result.json").is_file()


def test_a_result_reads_well_in_eighty_columns(run, monkeypatch, tmp_path):
    monkeypatch.setattr(pl, "compress", lambda *_, **__: Found(met=True, proven=True))
    _, out, _ = run("compress", "net.plm", "--task", "good.py", "--out", tmp_path / "out")
    rows = out.splitlines()
    assert all(len(row) <= 80 for row in rows[:4])
    assert rows[2].split()[:7] == ["→", "int8", "316.530", "kB", "0.50×", "0.50", "ms"]
    for said in ("accuracy of baseline, int8: on 100 samples of test data", "refused: float16, slower than",
                 "not tried: int8-minmax, int8 keeps", "layer0 (excluded by name)", "and 2 more",
                 "note: no validation data", "met and proven (drop<=1%: told)"):  # fmt: skip
        assert said in out


def test_a_search_in_json_prints_its_ledger(run, monkeypatch, tmp_path):
    monkeypatch.setattr(pl, "compress", lambda *_, **__: Found(met=True, proven=True))
    code, out, error = run("compress", "net.plm", "--task", "good.py", "--out", tmp_path / "out", "--json")
    assert (code, error) == (0, "")
    assert json.loads(out)["best"]["name"] == "int8"


def test_a_reader_that_goes_away_ends_it_quietly():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; sys.argv = ['packlight', 'targets', '--json']; from packlight.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode in (1, 141)  # the first is typer's own
    assert done.stderr == ""


# interrupted


def children_of(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, id="terminated"),
    ],
)
@pytest.mark.slow
def test_an_interrupted_search_leaves_no_process_and_no_folder(folder, tmp_path, sent, code):
    work = tmp_path / "tmp"
    work.mkdir()
    words = ["compress", "net.plm", "--task", "good.py", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from packlight.cli import main; main()", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env={**os.environ, "TMPDIR": str(work)},
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not (started := children_of(process.pid)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(sent)
    out, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == "" and "Traceback" not in error
    if sent == signal.SIGINT:
        assert error.splitlines()[-1] == "packlight: interrupted"
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive
    assert not (tmp_path / "out").exists()
    assert not [p for p in work.iterdir() if p.name != "packlight.lock"]


# the whole way


@pytest.mark.slow
def test_the_commands_work_one_after_the_other(run, folder, tmp_path):
    code, out, _ = run("export", "net.plm", tmp_path / "float.onnx", "--task", "good.py", "--json")
    assert code == 0 and json.loads(out)["form"] == "float32"
    out_folder = tmp_path / "out"
    budget = ("--budget", "drop<=3%, size:min")
    code, out, error = run("compress", "net.plm", "--task", "good.py", *budget, "--out", out_folder)
    assert code == 0, out + error
    assert "exporting the float baseline" in error
    assert "met" in out and f"to {out_folder}/" in out
    code, out, _ = run("measure", out_folder, "--task", "good.py", "--baseline", tmp_path / "float.onnx", "--json")
    assert code == 0
    found = json.loads(out)
    assert {"quality", "drop_points", "agreement", "file_ratio", "latency_ms", "latency_ratio", "latency_p95_ms",
            "cold_start_ms", "peak_memory_bytes", "file_bytes", "throughput_1_thread"} <= set(found)  # fmt: skip
    assert found["file_ratio"]["value"] > 1.5
    code, out, _ = run("measure", out_folder / "result.json", "--task", "good.py")
    assert code == 2


@pytest.mark.slow
def test_doctor_tries_the_targets_that_are_named(run):
    code, out, _ = run("doctor", "onnxruntime", "ncnn", "--json")
    findings = json.loads(out)
    assert code == 0 and all(finding["ok"] for finding in findings)
    ran = {f["subject"] for f in findings if "ran" in f["text"]}
    assert ran == {"onnxruntime float", "onnxruntime int8", "ncnn float"}
    code, _, error = run("doctor", "onnxrumtime")
    assert code == 2 and "no target 'onnxrumtime'" in error

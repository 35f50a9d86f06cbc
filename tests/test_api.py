"""The public functions, as the design shows them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_tasks import digits, images, trained, untrained
from torch import nn

import packlight as pl
from packlight.api import measuring
from packlight.errors import PacklightError
from packlight.measure import Measurement


def test_measure_is_the_function_although_there_is_a_room_of_that_name():
    lines = ["import packlight as pl", "from packlight.measure import Measurement", "assert callable(pl.measure)",
             "import packlight.measure.quality", "assert callable(pl.measure)"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("load", "source example_inputs dynamic constants operators name weights trust"),
        ("fold", "model"),
        ("renorm", "model task samples"),
        (
            "quantize",
            "model task target ranges samples exclude mode weights activations ends layers mixed budget rounding "
            "group symmetric scales equalize correct_bias reduce_range on_batch on_block",
        ),
        ("sensitivity", "model task measure samples target probes seed cache"),
        ("finetune", "model task epochs learning_rate teacher distillation options hooks checkpoint log on_step"),
        ("distill", "teacher task student width options distillation features control on_stage on_step"),
        ("transfer", "model task classes modes time_limit options on_stage"),
        ("export", "model path target form task dims"),
        ("convert", "source path target form dims"),
        (
            "pack",
            "model path task budget confidence price mode exclude samples judged finetune teacher checkpoint on_stage "
            "on_step",
        ),
        ("unpack", "path out target tables"),
        ("build_in", "model task dtype layout scale shift after"),
        ("compare", "model task target split exclude on_stage"),
        ("estimate", "model device batch form"),
        ("measure", "artifact task baseline split"),
        ("compress", "model task target budget time_limit exclude prove on_stage"),
    ],
)
def test_the_signatures_are_those_of_the_manual(name, parameters):
    function = getattr(pl, name)
    assert list(inspect.signature(function).parameters) == parameters.split()
    assert inspect.getdoc(function)


def test_batch_norms_take_up_the_statistics_of_the_calibration_data():
    strange = digits(calibration=images(256) * 3 + 2)
    model, made = trained(), pl.renorm(trained(), strange, samples=200)
    assert not torch.equal(made.named_tensors()["norm.running_mean"], model.named_tensors()["norm.running_mean"])
    assert str(made.lineage[-1]) == "renorm(samples=200)" and made.lineage[:-1] == model.lineage
    moved = {"test": (digits().test.inputs[0] * 3 + 2, digits().test.targets)}
    before, after = (pl.measure(m, digits(**moved))["quality"].value for m in (model, made))
    assert after > before + 10
    with pytest.raises(PacklightError, match="has no batch norm; where it was folded"):
        pl.renorm(pl.fold(trained()), strange)
    with pytest.raises(PacklightError, match="samples >= 1, got 0"):
        pl.renorm(trained(), strange, samples=0)


# load


def factory():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.zeros(2, 1, 8, 8)


def test_a_network_is_loaded_from_a_module_a_file_or_a_factory(tmp_path, monkeypatch):
    model = untrained()
    x = torch.from_numpy(images(3))
    again = pl.load(model.save(tmp_path / "net.plm"))
    assert torch.equal(again(x), model(x))
    assert pl.load(model) is model
    (tmp_path / "mynets.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Linear(3, 2), torch.zeros(2, 3)\n"
        "def bare():\n    return torch.nn.Linear(3, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert pl.load("mynets:net", name="mine").name == "mine"
    assert pl.load("mynets:bare", torch.zeros(2, 3))(torch.zeros(4, 3)).shape == (4, 2)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (nn.Linear(3, 2), "a torch module needs example_inputs"),
        (7, "a network is a torch module, a .plm, .plt, .onnx or .pt2 file or module:factory.*got int"),
        ("resnet", "resnet does not exist; give a .plm, .plt, .onnx or .pt2 file, or module:factory"),
        ("gone.onnx", "gone.onnx does not exist"),
    ],
    ids=["no example", "no network", "a mere name", "missing"],
)
def test_what_is_no_network_is_a_clear_error(source, said):
    with pytest.raises(PacklightError, match=said):
        pl.load(source)


def test_a_graph_without_its_folder_is_refused_with_what_to_give(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(PacklightError, match="opened with the SavedModel folder that they stand in"):
        pl.load(tmp_path / "saved_model.pb")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_files_of_weights_are_never_unpickled(tmp_path, suffix):
    torch.save(nn.Linear(2, 2), tmp_path / f"net{suffix}")
    with pytest.raises(PacklightError, match=r"hold weights.*module:factory"):
        pl.load(tmp_path / f"net{suffix}")


# measure


def artifact(size: int, wrong: int = 0) -> SimpleNamespace:
    return SimpleNamespace(bytes=size, wrong=wrong, fixed_batch=None)


@pytest.fixture
def no_runtime(monkeypatch):
    """Scores by the labels, timings by the size."""
    from packlight.measure.latency import Latency
    from packlight.measure.quality import Scores

    def evaluate(one, task, split):
        rows = np.ones((397, 1))
        rows[: one.wrong] = 0
        return Scores(rows, rows[:, 0].astype(int), task.measure_with)

    def compare(files, inputs, threads):
        ms = [Measurement(f.bytes / 1000, "ms", 25, f.bytes / 1100, f.bytes / 900) for f in files]
        ratios = [Measurement(f.bytes / files[0].bytes, "×", 25, 0.4, 0.6) for f in files]
        bytes_of = [Measurement.exact(f.bytes, "bytes") for f in files]
        return [Latency(m, m, r, m, b, (m.value / 1e3,)) for m, r, b in zip(ms, ratios, bytes_of, strict=True)]

    monkeypatch.setattr(measuring, "Artifact", SimpleNamespace)
    monkeypatch.setattr(measuring, "evaluate_artifact", evaluate)
    monkeypatch.setattr(measuring, "compare_times", compare)
    monkeypatch.setattr(measuring, "throughput", lambda f, i, t: {n: Measurement(1.0, "samples/s", 9, 1, 1) for n in t})
    monkeypatch.setattr(measuring, "cores", lambda: 2)


def test_a_file_alone_has_no_drop_and_no_ratio(no_runtime):
    found = pl.measure(artifact(1000), digits())
    assert set(found) == {"quality", "latency_ms", "latency_p95_ms", "cold_start_ms", "peak_memory_bytes", "file_bytes",
                          "throughput_1_thread", "throughput_2_threads"}  # fmt: skip
    assert found["quality"].value == 100


def test_beside_a_baseline_there_is_a_drop_an_agreement_and_ratios(no_runtime):
    found = pl.measure(artifact(500, wrong=4), digits(), baseline=artifact(1000))
    assert found["drop_points"].value == pytest.approx(100 * 4 / 397)
    assert found["agreement"].value == pytest.approx(100 * 393 / 397)
    assert found["file_ratio"].value == 2
    assert found["latency_ratio"].value == 0.5


def test_a_model_is_measured_for_quality_in_pytorch(tmp_path):
    found = pl.measure(trained(), digits(), split="validation")
    assert set(found) == {"quality"} and found["quality"].value > 90
    assert pl.measure(trained().save(tmp_path / "net.plm"), digits(), split="validation") == found


def test_a_split_that_is_not_there_is_a_clear_error():
    with pytest.raises(PacklightError, match="no test data"):
        pl.measure(trained(), digits(test=None))


# the rest


def test_finetuning_by_the_public_name_trains_on_the_tasks_data():
    better = pl.finetune(untrained(), digits(), epochs=0.5, learning_rate=0.05, teacher=trained())
    assert [s.name for s in better.lineage][-1] == "finetune"


def test_quantizing_reports_what_stays_in_float():
    int8 = pl.quantize(trained(), digits(), exclude=["head"], samples=32)
    assert "head stays in float: excluded by name" in int8.notes


def test_a_task_may_be_a_file(tmp_path):
    (tmp_path / "mytask.py").write_text("from small_tasks import digits\ntask = digits\n")
    assert pl.measure(trained(), tmp_path / "mytask.py", split="validation")["quality"].n == 400


@pytest.mark.slow
def test_a_network_goes_all_the_way_by_the_public_names(tmp_path):
    task = digits()
    file = pl.export(pl.quantize(trained(), task), tmp_path / "int8.onnx", target="onnxruntime", task=task)
    base = pl.export(trained(), tmp_path / "float.onnx")
    found = pl.measure(file, task, baseline=base)
    assert found["file_ratio"].value > 1.5 and abs(found["drop_points"].value) < 2
    assert pl.measure(str(file.path), task)["quality"] == found["quality"]

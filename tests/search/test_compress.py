"""The search: what is tried, what ships, and what the answer says."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from made_forms import form
from small_tasks import digits, images, trained
from torch import nn

import packlight as pl
from packlight.errors import ChildFailure, PacklightError
from packlight.measure import Measurement, latency
from packlight.networks import lenet300
from packlight.passes.quantize import quantize
from packlight.search import compress as module
from packlight.search import workbench
from packlight.search.budget import Budget
from packlight.search.candidates import candidates, thin_stems
from packlight.search.prepare import Ground
from packlight.targets import get
from packlight.task import Data, Task, Workload

ORT = get("onnxruntime")


# decisions, with a bench that measures nothing


class Bench:
    """Hands out made-up forms; a candidate without one fails."""

    def __init__(self, forms=(), on_test=None, took=0.0):
        self.forms, self.verdicts, self.took = {f.name: f for f in forms}, on_test, took
        self.asked: list[str] = []
        self.clock = 0.0

    def __call__(self, ground, target, on_stage):
        self.ground = ground
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.asked.append("closed")

    def baseline(self):
        return form("baseline", split=self.ground.split)

    def measure(self, candidate):
        self.asked.append(candidate.name)
        self.clock += self.took
        made = self.forms.get(candidate.name, ChildFailure("onnxruntime: write crashed (SIGSEGV)"))
        if isinstance(made, Exception):
            raise made
        return made

    def on_test(self, baseline, best):
        self.asked.append("test")
        if isinstance(self.verdicts, Exception):
            raise self.verdicts
        return form("baseline", split="test"), form(best.name, split="test", **(self.verdicts or {}))

    def throughput(self, one):
        return {1: Measurement(100.0, "samples/s", 9, 99.0, 101.0)}


TASK = Task("toy", calibration=images(4), validation=(images(4), [0, 1, 2, 3]), test=(images(4), [0, 1, 2, 3]))


@pytest.fixture
def search(monkeypatch):
    def run(bench, budget="drop<=1%, latency:min", task=TASK, **more):
        split = "validation" if task.validation is not None else "test"
        monkeypatch.setattr(module, "prepare", lambda m, t, e: Ground(m, t, split, (), tuple(e)))
        monkeypatch.setattr(module, "Workbench", bench)
        monkeypatch.setattr(module.time, "monotonic", lambda: bench.clock)
        return module.compress(trained(), task, ORT, Budget.parse(budget), **more)

    return run


def test_int8_comes_first_then_the_float_forms_then_the_stand_in():
    tried = candidates(pl.load(lenet300(), torch.zeros(2, 1, 28, 28)), ORT, ("head",))
    names = [(c.name, c.form, c.instead_of) for c in tried]
    assert names == [
        ("int8", "float32", None), ("int8-tuned", "float32", None), ("int8-dynamic", "float32", None),
        ("float16", "float16", None),
        ("int8-minmax", "float32", "int8"),
    ]  # fmt: skip
    assert all(c.quantization is None or c.quantization.exclude == ("head",) for c in tried)


class TwoStems(nn.Module):
    """Two convolutions read the image, one of them twelve copies of it; a third reads what they made."""

    def __init__(self):
        super().__init__()
        self.thin, self.wide, self.later = nn.Conv2d(1, 6, 3), nn.Conv2d(12, 6, 3, groups=6), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        return self.later(self.thin(x * 2) + self.wide(x.expand(-1, 12, -1, -1))).flatten(1)


def test_a_first_convolution_of_few_channels_is_also_tried_in_float():
    model = pl.load(TwoStems(), torch.zeros(2, 1, 8, 8))
    assert thin_stems(model) == ["thin"]
    form = next(c for c in candidates(model, ORT, ("later",)) if c.name == "int8-float-stem")
    assert form.quantization is not None and form.quantization.exclude == ("later", "thin") and form.instead_of is None
    quantized = quantize(model, Task("x", calibration=images(4)[:, :, :8, :8]), ORT.numerics, form.quantization)
    left = [n for n in quantized.notes if "excluded by name" in n]
    assert {n.split()[0] for n in left} == {"thin", "later"}


def test_a_float_stem_is_no_form_of_its_own_where_the_user_keeps_the_stem_in_float():
    model = pl.load(TwoStems(), torch.zeros(2, 1, 8, 8))
    assert "int8-float-stem" not in [c.name for c in candidates(model, ORT, ("th*",))]


INT8 = form("int8", ratio=0.5, size=300_000, drop=0.2)
FLOAT16 = form("float16", size=500_000)


def test_the_best_ships_and_what_was_needless_is_named(search):
    bench = Bench([INT8, FLOAT16])
    result = search(bench)
    assert result.best.name == "int8" and result.met and result.proven
    assert bench.asked == ["int8", "int8-tuned", "int8-float-stem", "int8-dynamic", "float16", "test", "closed"]
    assert result.skipped["int8-minmax"] == "int8 keeps the budget already"
    assert [c.name for c in result.candidates] == ["int8", "float16"]
    assert (result.baseline.split, result.best.split, result.candidates[0].split) == ("test", "test", "validation")
    assert set(result.throughput) == {"baseline", "int8"}


def test_the_stand_in_is_tried_when_int8_misses_the_budget_even_if_float16_keeps_it(search):
    minmax = form("int8-minmax", ratio=0.5, size=300_000, drop=0.5)
    bench = Bench([form("int8", ratio=0.5, drop=2.0), FLOAT16, minmax])
    assert search(bench).best.name == "int8-minmax"


@pytest.mark.parametrize(
    ("int8", "said"),
    [
        (PacklightError("nothing in net can be\nquantized"), "it stands in for int8, which could not be measured"),
        (form("int8", refused="slower", drop=3), "it stands in for int8, which was refused"),
    ],
    ids=["int8 failed", "int8 refused"],
)
def test_the_stand_in_is_not_tried_for_what_it_cannot_change(search, int8, said):
    bench = Bench([FLOAT16])
    bench.forms["int8"] = int8
    result = search(bench)
    assert said in result.skipped["int8-minmax"]
    assert result.best.name == "float16"
    if isinstance(int8, Exception):
        assert result.skipped["int8"] == "nothing in net can be quantized"


def test_when_everything_fails_the_baseline_ships_and_every_failure_is_named(search):
    result = search(Bench())
    assert result.best.name == "baseline" and result.met
    assert result.candidates == []
    assert result.skipped["int8"] == result.skipped["float16"] == "onnxruntime: write crashed (SIGSEGV)"
    assert "the float baseline ships: no other form was measured" in result.reason


def test_when_everything_is_refused_the_baseline_ships_and_the_reason_says_so(search):
    result = search(Bench([form("int8", refused="slower than the float baseline"), form("float16", refused="larger")]))
    assert result.best.name == "baseline"
    assert "every other form was refused (int8: slower than the float baseline; float16: larger)" in result.reason


def test_a_mistake_of_packlights_own_is_not_hidden(search):
    bench = Bench([FLOAT16])
    bench.forms["int8"] = TypeError("a bug")
    with pytest.raises(TypeError, match="a bug"):
        search(bench)
    assert bench.asked[-1] == "closed"


def test_after_the_time_limit_nothing_more_is_tried_and_the_best_so_far_ships(search):
    result = search(Bench([INT8, FLOAT16], took=10), time_limit=5)
    assert result.best.name == "int8"
    assert result.skipped == dict.fromkeys(
        ("int8-tuned", "int8-float-stem", "int8-dynamic", "float16", "int8-minmax"), "the time limit was reached"
    )


def test_the_verdict_is_the_test_datas_not_the_choices(search):
    result = search(Bench([INT8, FLOAT16], on_test={"drop": 2.0, "half": 0.5}))
    assert result.best.name == "int8"
    assert not result.met and "drop<=1%: measured 2 points" in result.reason


def test_an_impossible_budget_gets_the_nearest_miss_with_the_reason(search):
    result = search(Bench([INT8, FLOAT16], on_test={"size": 300_000}), "size<=1kB")
    assert result.best.name == "int8"
    assert not result.met and not result.proven
    assert "size<=1kB: measured 300,000 bytes, allowed 1000 bytes" in result.reason


def test_test_data_that_break_do_not_cost_the_search(search):
    result = search(Bench([INT8, FLOAT16], on_test=PacklightError("labels range from 0 to 99")))
    assert result.best.name == "int8" and result.best.split == "validation"
    assert not result.met and not result.proven
    assert result.reason == "no verdict on test data: labels range from 0 to 99"


def test_prove_chooses_what_is_proven(search):
    unsure = form("int8", ratio=0.5, drop=0.5, half=1.0)
    assert search(Bench([unsure, FLOAT16])).best.name == "int8"
    assert search(Bench([unsure, FLOAT16]), prove=True).best.name == "float16"


@pytest.mark.parametrize(("missing", "asked"), [("validation", "test"), ("test", "validation")])
def test_choice_and_verdict_on_the_same_data_are_told(search, missing, asked):
    parts = {"validation": (images(4), [0, 1, 2, 3]), "test": (images(4), [0, 1, 2, 3])}
    del parts[missing]
    bench = Bench([INT8, FLOAT16])
    result = search(bench, task=Task("toy", calibration=images(4), **parts))
    assert "test" not in bench.asked
    told = f"no {missing} data: choice and verdict are on the same {asked} data, which flatters the choice"
    assert result.notes == [told]
    assert result.as_json()["notes"] == result.notes


# the whole way, on a real network


class Shared:
    """A child process that others go on using."""

    def __init__(self, child):
        self._child, self.call = child, child.call

    def last_words(self):
        return self._child.last_words()

    def close(self):
        pass


@pytest.fixture(scope="module")
def found(exporter):
    stages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench, "Child", lambda target: Shared(exporter))
        patch.setattr(workbench, "thread_counts", lambda most: [1])
        patch.setattr(latency, "_BLOCK_S", 0.01)
        patch.setattr(latency, "_WARM_UP_S", 0.05)
        budget = "drop<=2%, size:min"  # not latency: on a busy machine a float this small may well be the fastest
        return pl.compress(trained(), digits(), budget=budget, exclude=["stem"], on_stage=stages.append), stages


FRESH = textwrap.dedent("""
    import sys, numpy as np, onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    arrays = np.load(sys.argv[2])
    (scores,) = session.run(None, {session.get_inputs()[0].name: arrays["x"]})
    assert not any(m.startswith("packlight") for m in sys.modules)
    print((scores.argmax(1) == arrays["y"]).mean())
""")


def test_the_search_finds_a_smaller_file_that_does_its_job_and_runs_without_packlight(found, tmp_path):
    result, stages = found
    assert result.met, result.reason
    measured = result.best.measurements
    assert measured["file_ratio"].value > 1.5
    assert measured["drop_points"].value <= 0.02 * result.baseline.measurements["quality"].value
    assert measured["agreement"].value > 97
    assert (result.best.split, measured["quality"].n) == ("test", 397)
    assert stages[0] == "exporting the float baseline" and "giving the verdict on test data" in stages

    out = result.save(tmp_path / "out")
    ledger = json.loads((out / "result.json").read_text())
    assert ledger["met"] is True and ledger["best"]["name"] == result.best.name
    assert {c["name"] for c in ledger["candidates"]} >= {"int8", "float16"}
    x, y = digits().test.inputs[0], digits().test.targets
    np.savez(tmp_path / "test.npz", x=x, y=y)
    plain = subprocess.run(
        [sys.executable, "-c", FRESH, out / ledger["best"]["artifact"], tmp_path / "test.npz"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    assert float(plain.stdout) == pytest.approx(ledger["best"]["measurements"]["quality"]["value"] / 100, abs=1e-9)


def test_excluded_layers_stay_in_float_and_are_reported(found):
    result, _ = found
    int8 = next(c for c in result.candidates if c.name == "int8")
    bits = {row["layer"]: row["bits"] for row in int8.layers}
    assert (bits["stem"], bits["body"], bits["head"]) == (32, 8, 8)
    assert "stem stays in float: excluded by name" in int8.as_json()["notes"]


def test_every_number_of_every_form_was_measured(found):
    result, _ = found
    for one in (result.baseline, *result.candidates):
        assert one.measurements["peak_memory_bytes"].value > 0
        assert one.measurements["latency_ms"].n >= 9
        assert one.measurements["parity_error"].value < 0.03
    assert result.baseline.measurements["drop_points"] == Measurement.exact(0.0, "points", 397)
    assert set(result.throughput[result.best.name]) >= {1}
    assert result.as_json()["versions"]["onnxruntime"]


class LateTest(Data):
    """Test data that may be read for the verdict only."""

    def __init__(self, inner):
        self.inner, self.allowed = inner, False

    def batches(self, size):
        assert self.allowed, "the search looked at the test data"
        return self.inner.batches(size)

    def __len__(self):
        assert self.allowed, "the search counted the test data"
        return len(self.inner)

    def fingerprint(self):
        return self.inner.fingerprint()


@pytest.mark.slow
def test_test_data_are_read_for_the_verdict_only():
    late = LateTest(digits().test)

    def on_stage(text):
        late.allowed = late.allowed or text == "giving the verdict on test data"

    result = pl.compress(trained(), digits(test=late), budget="drop<=2%", on_stage=on_stage, time_limit=0.001)
    assert late.allowed
    assert result.baseline.split == "test" and result.best.name == "baseline"


@pytest.mark.slow
def test_a_tiny_time_limit_still_gives_an_answer(tmp_path):
    result = pl.compress(trained(), digits(), time_limit="0.001s")
    assert result.best.name == "baseline" and result.met
    assert set(result.skipped) == {"int8", "int8-tuned", "int8-float-stem", "int8-dynamic", "float16", "int8-minmax"}
    assert (result.save(tmp_path / "out") / "baseline.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["validation", "test"])
def test_a_task_with_one_split_is_enough(missing):
    result = pl.compress(trained(), digits(**{missing: None}), budget="size:min, drop<=2%")
    assert result.best.split == ("test" if missing == "validation" else "validation")
    assert result.notes


class OnlyFloat(nn.Module):
    """Nothing here has a low-precision kernel or a weight that is stored as integers: a mean of pixels in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(8, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.mean((1, 2)) @ self.table)


@pytest.mark.slow
def test_a_network_without_anything_to_quantize_still_gets_an_answer():
    torch.manual_seed(0)
    model = pl.load(OnlyFloat(), torch.zeros(2, 1, 8, 8), name="only-float")
    result = pl.compress(model, digits(), budget="drop<=5%, size:min")
    assert "quantized" in result.skipped["int8"]
    assert result.best.name in ("baseline", "float16")


@pytest.mark.slow
def test_a_workload_of_several_samples_and_an_impossible_budget():
    result = pl.compress(trained(), digits(workload=Workload(batch=16)), budget="size<=1kB, latency:min")
    assert not result.met
    assert result.best.name == min(
        (c for c in (result.baseline, *result.candidates) if not c.refused),
        key=lambda c: c.measurements["file_bytes"].value,
    ).name  # fmt: skip
    assert "allowed 1000 bytes" in result.reason


def test_ranges_at_run_time_are_tried_where_linear_layers_hold_the_weights():
    from packlight.networks import lenet5, lstm_classifier, transformer_classifier

    ids = torch.zeros(2, 8, dtype=torch.int64)
    tried = {
        name: {c.name: c for c in candidates(pl.load(net.eval(), example), ORT)}
        for name, net, example in (
            ("convolutions", lenet5(), torch.zeros(2, 1, 28, 28)), ("recurrent", lstm_classifier(2), (ids, ids)),
            ("transformer", transformer_classifier(2), (ids, ids)),
        )
    }  # fmt: skip
    assert "int8-dynamic" in tried["recurrent"]
    assert tried["transformer"]["int8-dynamic"].quantization.mode == "dynamic"

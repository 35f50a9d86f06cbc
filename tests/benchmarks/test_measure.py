"""A case from network to rows, with real files on the real runtime and a peer that crashes."""

import numpy as np
import pytest

from benchmarks import ROOT
from benchmarks.case import Case
from benchmarks.forms import FOLDERS, Form, listed
from benchmarks.ledger import packed, unpacked
from benchmarks.measure import CaseRun

CRASHING = """
import os, sys, json
if sys.argv[1] == "late":
    print(json.dumps({"ready": True, "bytes": 5, "seconds": 0.1}), flush=True)
    for line in sys.stdin:
        os.abort()
raise SystemExit("this machine has no such unit")
"""


@pytest.mark.parametrize("n", [1, 8, 2000, 2003])
def test_which_samples_were_right_comes_back_as_it_was_packed(n):
    right = np.random.default_rng(n).random(n) < 0.9
    assert (unpacked(packed(right), n) == right).all()


def test_our_own_scripts_list_the_float_file_and_packlights_forms():
    labels = [form.label for form in listed(FOLDERS[0] / "packlight_forms.py")]
    assert labels[:2] == ["float32", "packlight int8"]


@pytest.mark.slow
def test_a_case_measures_what_works_and_says_why_the_rest_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.measure.SCRATCH", tmp_path)
    peer = tmp_path / "peer.py"
    peer.write_text(CRASHING)
    own = {form.form: form for form in listed(ROOT / "benchmarks" / "runners" / "packlight_forms.py")}
    forms = [own["float32"], own["int8"], *(Form(peer, name, ("*",), True) for name in ("early", "late"))]
    case = Case("tiny", "packlight.networks:lenet300", (1, 28, 28), options={"pixels": 784}, quick_batches=(1,))
    findings = CaseRun(case, quick=True).measure(lambda: (forms, {"absent": "its list is broken"}))

    by_key = {(f["form"], f["what"], f["batch"]): f for f in findings}
    smaller = by_key["packlight int8", "times_smaller", None]["value"]
    assert 3.5 < smaller < 4.0
    assert by_key["float32", "latency_ratio", 1]["value"] == 1.0
    assert by_key["packlight int8", "latency_ms", 1]["value"] > 0
    assert len(by_key["packlight int8", "latency_ms", 1]["detail"]["rounds"]) == 25
    assert by_key["packlight int8", "latency_ms", 1]["versions"].keys() >= {"packlight", "onnxruntime"}
    reasons = {form: f["detail"]["reason"] for (form, _, _), f in by_key.items() if f["value"] is None}
    assert reasons == {
        "absent": "its list is broken",
        "peer early": "building ended with exit code 1: this machine has no such unit",
        "peer late": reasons["peer late"],
    }
    assert reasons["peer late"].startswith("time ended with signal SIGABRT")


def test_a_network_that_is_not_there_is_a_skipped_case_with_the_reason():
    case = Case("absent", "packlight.networks:lenet300", (1, 28, 28), "benchmarks/networks/absent.plm")
    (only,) = CaseRun(case, quick=True).measure()
    assert (only["form"], only["what"]) == ("", "skipped")
    assert "benchmarks/networks/absent.plm is not there" in only["detail"]["reason"]


def test_without_a_float_file_the_case_failed_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.measure.SCRATCH", tmp_path)
    monkeypatch.setattr("benchmarks.measure.make_job", lambda folder, *_: folder.mkdir(parents=True))
    peer = tmp_path / "peer.py"
    peer.write_text("raise SystemExit('no')")
    case = Case("resnet20", "packlight.networks:resnet20", (1, 28, 28), "packlight/data/resnet20_fashion_mnist.plm")
    findings = CaseRun(case, quick=True).measure(lambda: ([Form(peer, "float32", ("*",), True)], {}))
    assert [(f["form"], f["what"]) for f in findings] == [("peer float32", "failed"), ("", "failed")]
    assert findings[-1]["detail"]["reason"] == "there is no float file to compare with"

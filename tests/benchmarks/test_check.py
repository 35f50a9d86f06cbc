"""The regression check: real differences are named, noise is not."""

import numpy as np
import pytest
from made_rows import made_case, made_row

from benchmarks.check import check
from packlight import PacklightError
from packlight.measure import Measurement

N = 2000
WRONG = {"float32": 130, "packlight int8": 131, "peer int8": 128}
SECONDS = {"float32": 1.0e-3, "packlight int8": 0.60e-3, "peer int8": 0.58e-3}
BYTES = {"float32": 1_000_000, "packlight int8": 280_000, "peer int8": 290_000}


def run(*, faster_machine=1.0, faster_int8=1.0, noise=0.03, seed=0, stamp=(), **changed):
    """A quick run. changed: `packlight_int8={"seconds": …}` overrules a form's facts."""
    random = np.random.default_rng(seed)
    drift = 1 + noise * random.standard_normal(25)
    forms = {}
    for form in BYTES:
        over = changed.get(form.replace(" ", "_"), {})
        speed = faster_machine * (1.0 if form == "float32" else faster_int8)
        rounds = SECONDS[form] * over.get("slower", 1.0) / speed * drift * (1 + noise * random.standard_normal(25))
        right = np.arange(N) >= WRONG[form]
        right[over.get("lost", [])] = False
        right[over.get("won", [])] = True
        forms[form] = {"bytes": over.get("bytes", BYTES[form]), "right": right, "rounds": rounds.tolist()}
        forms[form]["data"] = changed.get("data", "0" * 12)
    return made_case(forms, stamp)


def outcome(capsys, before, after):
    code = check(before, after)
    return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith(("WORSE", "better"))]


@pytest.mark.parametrize("seed", range(5))
def test_another_run_of_the_same_code_is_the_same(capsys, seed):
    assert outcome(capsys, run(), run(seed=100 + seed)) == (0, [])


@pytest.mark.parametrize("phase", [0.5, 0.75, 1.33, 2.0])
def test_a_slower_or_faster_machine_is_no_difference(capsys, phase):
    assert outcome(capsys, run(), run(seed=1, faster_machine=phase)) == (0, [])


@pytest.mark.parametrize("phase", [0.72, 1.4])
def test_a_phase_in_which_int8_gains_less_or_more_is_no_difference(capsys, phase):
    assert outcome(capsys, run(), run(seed=1, faster_int8=phase)) == (0, [])


def test_a_few_images_either_way_are_no_difference(capsys):
    flipped = {"lost": [500, 501, 502, 503], "won": [1, 2, 3]}
    assert outcome(capsys, run(), run(packlight_int8=flipped)) == (0, [])


def test_one_percent_of_lost_images_is_named_although_the_two_intervals_overlap(capsys):
    code, told = outcome(capsys, run(), run(packlight_int8={"lost": list(range(500, 520))}))
    assert code == 1
    (line,) = told
    assert line.startswith("WORSE   net, packlight int8: accuracy 93.45 became 92.45, a drop of 1 points")


def test_won_images_are_told_and_do_not_fail(capsys):
    code, told = outcome(capsys, run(), run(packlight_int8={"won": list(range(40))}))
    assert code == 0
    assert len(told) == 1 and told[0].startswith("better")


def test_a_form_that_got_slower_than_its_rivals_is_named(capsys):
    code, told = outcome(capsys, run(), run(seed=1, packlight_int8={"slower": 1.5}))
    assert code == 1
    assert any("packlight int8" in line and "of peer int8's time" in line for line in told)


def test_all_int8_falling_back_to_float_speed_is_named(capsys):
    code, told = outcome(capsys, run(), run(seed=1, packlight_int8={"slower": 1.8}, peer_int8={"slower": 1.8}))
    assert code == 1
    assert {line.split(": ")[0] for line in told} == {"WORSE   net, packlight int8", "WORSE   net, peer int8"}


@pytest.mark.parametrize(("factor", "code"), [(1.005, 0), (1.02, 1), (0.9, 0)])
def test_bytes_within_one_percent_are_the_same(capsys, factor, code):
    assert outcome(capsys, run(), run(packlight_int8={"bytes": round(280_000 * factor)}))[0] == code


def test_a_form_that_now_fails_is_named(capsys):
    after = [row for row in run() if row.form != "packlight int8"]
    after.insert(0, made_row("packlight int8", "failed", reason="predict ended with signal SIGSEGV"))
    code, told = outcome(capsys, run(), after)
    assert code == 1
    assert told == ["WORSE   net, packlight int8: was measured and now fails: predict ended with signal SIGSEGV"]


def test_a_form_that_is_skipped_is_told_and_does_not_fail(capsys):
    after = [row for row in run() if row.form != "peer int8"]
    after.insert(0, made_row("peer int8", "skipped", reason="environment peer could not be made"))
    assert check(run(), after) == 0
    assert "note    net, peer int8: skipped: environment peer could not be made" in capsys.readouterr().out


@pytest.mark.parametrize(("what", "code"), [("failed", 1), ("skipped", 0)])
def test_a_case_that_came_to_nothing_is_told_although_an_older_fresh_run_was_fine(capsys, what, code):
    after = [*run(), made_row("", what, reason="the exporter crashed", stamp={"run": "quick-2"})]
    assert check(run(), after) == code
    assert f"  net: {what}: the exporter crashed" in capsys.readouterr().out


def test_a_form_that_already_failed_in_the_committed_run_is_no_difference(capsys):
    broken = made_row("packlight int8", "failed", reason="time took more than 600 s")
    assert outcome(capsys, [broken, *run()], [broken, *run()]) == (0, [])


def test_a_rival_that_is_gone_does_not_change_whom_the_others_are_compared_with(capsys):
    before = run(peer_int8={"slower": 0.5})
    after = [row for row in run(seed=1) if row.form != "peer int8"]
    assert outcome(capsys, before, after) == (0, [])


def test_nothing_in_common_is_bad_input():
    with pytest.raises(PacklightError, match="nothing to compare"):
        check(run(), run(stamp={"case": "other"}))


def test_other_test_images_are_bad_input():
    with pytest.raises(PacklightError, match="other test samples"):
        check(run(), run(data="1" * 12))


def test_full_rows_are_not_compared():
    full = [made_row("", "case_s", Measurement.exact(1.0, "s"), stamp={"mode": "full"})]
    with pytest.raises(PacklightError, match="nothing to compare"):
        check(run(), full)

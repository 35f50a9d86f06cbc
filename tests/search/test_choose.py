"""Which form ships."""

from __future__ import annotations

import re

import pytest
from made_forms import BASELINE, form

from packlight.search.budget import Budget
from packlight.search.choose import choose, explained, refusal

DEFAULT = Budget.parse("drop<=1%, latency:min")


def best(tried, budget="drop<=1%, latency:min", prove=False) -> str:
    return choose(BASELINE, tried, Budget.parse(budget), prove=prove).name


@pytest.mark.parametrize(
    ("ratio", "noise", "size", "said"),
    [
        (1.10, 0.05, 400_000, "slower than the float baseline"),
        (1.10, 0.10, 400_000, ""),
        (1.02, 0.00, 400_000, ""),
        (0.50, 0.01, 1_000_001, "larger than the float baseline"),
        (0.50, 0.01, 1_000_000, ""),
        (1.50, 0.01, 2_000_000, "slower than the float baseline.*; larger than the float baseline: file 2 ×"),
    ],
    ids=["wholly above 1.02", "noise reaches below", "exactly 1.02", "a byte larger", "as large", "both"],
)
def test_what_is_clearly_slower_or_larger_than_what_came_in_is_refused(ratio, noise, size, said):
    found = refusal(form("int8", ratio=ratio, noise=noise, size=size).measurements)
    if said:
        assert re.search(said, found)
    else:
        assert found == ""


def test_the_fastest_within_the_budget_ships():
    tried = [form("slow", ratio=0.8, size=300_000), form("fast", ratio=0.5, size=400_000),
             form("wrong", ratio=0.2, drop=5)]  # fmt: skip
    assert best(tried) == "fast"


def test_the_goal_decides_among_forms_within_the_budget():
    tried = [form("small", ratio=0.9, size=200_000, drop=0.5), form("fast", ratio=0.5, size=400_000, drop=0.2)]
    assert best(tried, "drop<=1%, size:min") == "small"
    assert best(tried, "drop<=1%, latency:min") == "fast"
    assert best(tried, "drop:min, size<=500kB") == "fast"


def test_forms_within_the_noise_of_timing_are_told_apart_by_size():
    tried = [form("float16", ratio=1.01, size=500_000), form("pruned", ratio=0.995, size=900_000)]
    assert best(tried) == "float16"


def test_sizes_have_no_noise():
    tried = [form("a", ratio=0.9, size=499_000), form("b", ratio=0.5, size=500_000)]
    assert best(tried, "size:min") == "a"


def test_a_refused_form_never_ships_however_good_it_looks():
    assert best([form("broken", ratio=0.1, size=1000, refused="computes something else")]) == "baseline"


def test_the_baseline_ships_when_nothing_beats_it():
    assert best([]) == "baseline"
    assert best([form("int8", ratio=0.5, drop=3)]) == "baseline"


def test_an_impossible_budget_gets_the_nearest_miss():
    tried = [form("int8", size=300_000, ratio=0.5), form("float16", size=500_000)]
    assert best(tried, "size<=100kB") == "int8"
    chosen = choose(BASELINE, tried, Budget.parse("size<=100kB"))
    verdict = Budget.parse("size<=100kB").judge(chosen.measurements, BASELINE.measurements)
    assert not verdict.met and "measured 300,000 bytes, allowed 100,000 bytes" in verdict.reason


def test_misses_that_are_equally_near_are_decided_by_the_goal():
    tried = [form("slow", size=300_000, ratio=0.9), form("fast", size=300_000, ratio=0.5)]
    assert best(tried, "size<=100kB, latency:min") == "fast"


def test_prove_ships_only_what_is_proven():
    tried = [form("int8", ratio=0.5, drop=0.5, half=1.0), form("float16", ratio=0.9, drop=0.0, half=0.2)]
    assert best(tried) == "int8"
    assert best(tried, prove=True) == "float16"


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ([], "no other form was measured"),
        ([form("int8", refused="slower")], r"every other form was refused \(int8: slower\)"),
        ([form("int8", drop=3, ratio=0.5)], "no other form keeps the budget"),
        ([form("float16", ratio=1.05, noise=0.1, size=999_000)], "no other form does better"),
    ],
    ids=["nothing tried", "all refused", "none within", "none better"],
)
def test_when_the_baseline_ships_the_reason_says_why(tried, said):
    chosen = choose(BASELINE, tried, DEFAULT)
    assert chosen is BASELINE
    verdict = DEFAULT.judge(chosen.measurements, BASELINE.measurements)
    reason = explained(verdict, chosen, BASELINE, tried, DEFAULT).reason
    assert re.search(f"the float baseline ships: {said}", reason)


def test_another_forms_reason_is_left_alone():
    int8 = form("int8", ratio=0.5)
    verdict = DEFAULT.judge(int8.measurements, BASELINE.measurements)
    assert explained(verdict, int8, BASELINE, [int8], DEFAULT) == verdict

"""What the page says: verdicts, numbers, data, layers. The words, before they are HTML."""

import pytest
from made_results import baseline, form, layer, number, result

from packlight.report import ledger, summary
from packlight.report.layers import layer_table, why_float
from packlight.report.page import contents


def card(given, label):
    return next(c for c in summary.cards(given) if c["label"] == label)


def row(given, label):
    return next(r for r in summary.comparison(given) if r["label"] == label)


@pytest.mark.parametrize(
    ("changes", "tone", "title"),
    [
        ({}, "good", "Budget met and proven"),
        ({"proven": False, "reason": "drop<=1%: met but not proven"}, "fair", "Budget met, not proven"),
        ({"met": False, "proven": False, "reason": "drop<=1%: measured 2.3"}, "bad", "Budget not met"),
        ({"budget": "latency:min"}, "good", "No limit was set"),
    ],
    ids=["proven", "met", "not-met", "no-limit"],
)
def test_the_verdict_is_in_plain_words(changes, tone, title):
    verdict = summary.verdict(result(**changes))
    assert (verdict["tone"], verdict["title"]) == (tone, title)
    if not changes.get("proven", True):
        assert verdict["reason"] == changes["reason"]


def test_a_baseline_that_wins_says_so():
    float_form = baseline()
    given = result(float_form, [form("int8", refused="slower")], baseline=float_form)
    assert summary.verdict(given)["ships"] == "Nothing tried was better; the float file ships."
    assert {c["label"] for c in summary.cards(given)} == {"File size", "Latency, median", "Quality"}
    assert "Agreement" not in [r["label"] for r in summary.comparison(given)]


def test_a_nearest_miss_is_named():
    assert summary.verdict(result(met=False))["ships"] == "The nearest miss is int8."
    float_form = baseline()
    missed = result(float_form, [], baseline=float_form, met=False)
    assert summary.verdict(missed)["ships"] == "Nothing tried came nearer; the float file ships."


def test_the_big_numbers():
    assert card(result(), "File size")["number"] == "3.46×"
    speed = card(result(), "Speed")
    assert (speed["number"], speed["unit"], speed["interval"]) == ("2.00×", "faster", "1.96× to 2.04×")
    drop = card(result(), "Quality drop")
    assert (drop["number"], drop["unit"], drop["interval"]) == ("0.03", "points", "−0.05 to 0.11")
    assert drop["lines"][-1].replace("\u00a0", " ") == "test data, n = 10,000"
    assert card(result(), "Agreement")["number"] == "99.50"


@pytest.mark.parametrize(
    ("ratio", "number", "unit", "tone"),
    [(0.5, "2.00×", "faster", "better"), (1.25, "1.25×", "slower", "worse"), (0.995, "1.01×", "as fast", "")],
    ids=["faster", "slower", "unclear"],
)
def test_a_speed_is_claimed_only_where_its_interval_allows(ratio, number, unit, tone):
    given = result(form("int8", ratio=ratio))
    assert (card(given, "Speed")["number"], card(given, "Speed")["unit"]) == (number, unit)
    assert row(given, "Latency, median")["tone"] == tone


@pytest.mark.parametrize(
    ("drop", "change", "tone"),
    [(0.5, "0.50 points worse", "worse"), (-0.5, "0.50 points better", "better"), (0.03, "0.03 points worse", ""),
     (0.0, "no change", "")],
)  # fmt: skip
def test_a_drop_is_judged_by_its_interval(drop, change, tone):
    quality = row(result(form("int8", drop=drop)), "Quality")
    assert (quality["change"].replace("\u00a0", " "), quality["tone"]) == (change, tone)


def test_throughput_has_a_row_for_each_number_of_threads_in_order():
    about = [r["about"] for r in summary.comparison(result()) if r["label"] == "Throughput"]
    assert [a.replace("\u00a0", " ") for a in about] == [
        "back-to-back calls, 1 thread",
        "back-to-back calls, 16 threads",
    ]


def test_numbers_of_two_splits_are_told_apart():
    given = result(candidates=[form("int8"), form("float16", split="validation", n=5_000)])
    note = ledger.data_note(given).replace("\u00a0", " ")
    assert "chosen on validation data, n = 5,000" in note
    assert "again on test data, n = 10,000" in note
    assert ledger.plot_note(given) == "Drops are of test data for int8, of validation data for the others."
    assert [r["split"] for r in contents(given)["candidates"]] == ["test", "test", "validation"]


def test_a_choice_and_a_verdict_on_the_same_data_are_admitted():
    assert "flatters" in ledger.data_note(result(candidates=[form("int8"), form("float16")]))
    best = form("int8", split="validation")
    assert "no test data" in ledger.data_note(result(best, baseline=baseline(split="validation")))


def test_the_best_is_listed_once_even_when_it_is_no_candidate():
    assert [ledger.title(f) for f in ledger.forms(result(candidates=[]))] == ["baseline", "int8"]
    assert [ledger.title(f) for f in ledger.forms(result())] == ["baseline", "int8"]


def test_float_layers_are_marked_with_the_reason():
    why = "its kernel has no int8 form here"
    layers = [layer("stem"), layer("a.b", bits=32), layer("a", bits=32)]
    table = layer_table(form("int8", layers=layers, notes=[f"a.b stays in float: {why}", "input 'x' is fixed"]))
    assert [(r["float"], r["why"]) for r in table["rows"]] == [(False, ""), (True, why), (True, "")]
    assert table["notes"] == ["input 'x' is fixed"]
    assert table["work"].replace("\u00a0", " ") == "33.3 % of the MACs in 8 bits, 66.7 % in 32 bits"


def test_a_float_network_has_no_marked_layers():
    table = layer_table(form("float16", layers=[layer("stem", bits=32)]))
    assert not table["marked"]
    assert not table["rows"][0]["float"]
    assert table["work"].replace("\u00a0", " ") == "all MACs in 32 bits"


def test_a_long_layer_table_starts_closed():
    assert layer_table(form("int8", layers=[layer(f"l{i}") for i in range(30)]))["short"]
    assert not layer_table(form("int8", layers=[layer(f"l{i}") for i in range(31)]))["short"]


def test_a_layer_is_matched_by_its_whole_name():
    assert why_float("head", ["head.0 stays in float: excluded"]) == ""


def test_facts_are_written_with_units():
    facts = dict(contents(result())["facts"])
    assert facts["Memory"] == "25.28\u00a0GB"
    assert facts["Instructions"] == "avx2, avx512_vnni"
    assert facts["Workload"] == "batch 1, 1\u00a0thread"
    assert facts["The whole search took"] == "1\u00a0min 41\u00a0s"


def test_measurements_that_are_null_are_left_out():
    best = form("int8")
    best["measurements"]["agreement"] = number(99.0, "%") | {"value": None, "low": None, "high": None}
    assert "Agreement" not in [c["label"] for c in summary.cards(result(best))]

"""Tables in documents, and the plot."""

import pytest
from made_rows import made_case, made_row

from benchmarks.ledger import DONE, cases
from benchmarks.plot import draw, draw_growth
from benchmarks.render import everything, fill
from packlight import PacklightError
from packlight.measure import Measurement, intervals

N = 100
ROWS = made_case({
    "float32": {"bytes": 1_000_000, "right": [True] * N, "rounds": [1e-3] * 9},
    "packlight int8": {"bytes": 250_000, "right": [False] + [True] * (N - 1), "rounds": [0.5e-3] * 9},
    "peer int8": {"bytes": 300_000, "right": [True] * N, "rounds": [0.8e-3] * 9},
    "peer broken": {"bytes": 300_000, "right": [False] * 9 + [True] * (N - 9), "rounds": [0.1e-3] * 9},
    "peer stored": {"bytes": 100_000, "right": [False] * 50 + [True] * 50},
})  # fmt: skip
ROWS[:0] = [made_row(f"other {form}", "failed", reason="no licence") for form in ("int4", "int2")]
OTHERS = "intro\n<!-- table: another -->\nold\n<!-- end of table -->\n"
DOCUMENT = OTHERS + "<!-- table: bench quick n* -->\nold\n<!-- end of table -->\noutro\n"


def test_a_block_is_filled_and_the_rest_stays():
    filled = fill(DOCUMENT, ROWS, "README.md")
    assert filled.startswith(OTHERS + "<!-- table: bench quick n* -->\n| network |")
    assert filled.endswith("\n<!-- end of table -->\noutro\n")
    assert fill(filled, ROWS, "README.md") == filled


def test_a_block_can_ask_for_some_forms():
    filled = fill(DOCUMENT.replace("quick n*", "quick n* | float32, packlight *"), ROWS, "README.md")
    assert [line.split(" | ")[1] for line in filled.splitlines() if line.startswith("| net ")] == [
        "float32", "packlight int8",
    ]  # fmt: skip


def test_a_line_tells_size_speed_and_accuracy_with_intervals():
    (line,) = (line for line in everything(ROWS, "quick").splitlines() if line.startswith("| net | packlight int8 |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:6] == ["250.0", "4.00", "0.500", "2.00 [2.00, 2.00]"]
    assert cells[6:8] == ["–", "–"]
    assert cells[8] == "99.00"
    assert cells[9].startswith("+1.00 [")


def test_ours_is_compared_with_the_fastest_of_the_others_that_still_works_in_the_same_rounds():
    assert "* net, packlight int8: 1.60 [1.60, 1.60] (batch 1; peer int8) times the speed" in everything(ROWS, "quick")


def test_what_failed_is_said_with_the_reason():
    assert "* net, failed: other int4, other int2 (no licence)." in everything(ROWS, "quick")


def test_a_block_of_an_unknown_case_is_an_error():
    with pytest.raises(PacklightError, match=r"README\.md: no case fits 'resnet19'; there are resnet20,"):
        fill(DOCUMENT.replace("quick n*", "full resnet19"), ROWS, "README.md")


def test_a_block_of_a_case_that_was_not_measured_says_so():
    filled = fill(DOCUMENT.replace("quick n*", "full resnet20"), ROWS, "README.md")
    assert "<!-- table: bench full resnet20 -->\nNot measured yet.\n<!-- end of table -->" in filled


def test_a_ledger_without_the_mode_is_an_error():
    with pytest.raises(PacklightError, match="no complete full case"):
        everything(ROWS, "full")


def test_the_plot_shows_every_form_and_is_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'packlight[dev]'")
    found = cases(ROWS, "quick")
    first, second = (draw(found, tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    assert first == second
    assert all(f">{form}</text>" in first for form in ("float32", "packlight int8", "peer int8", "peer stored"))


def test_the_plot_of_growth_has_a_line_a_kind_and_leaves_out_the_rest(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'packlight[dev]'")
    seconds = [intervals.median([s, 1.1 * s, 1.2 * s], "s") for s in (0.1, 0.2, 0.3)]
    forms = ("net, 3 blocks", "net, 9 blocks", "other, 3 blocks")
    made = [made_row(form, "analysis_s", s) for form, s in zip(forms, seconds, strict=True)]
    rows = {row.key: row for row in (*made, made_row("whole, 224 px", "analysis_s", seconds[0]))}
    first, second = (draw_growth(rows, "analysis_s", tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    assert first == second and ">net</text>" in first and ">other</text>" in first and "whole" not in first


def test_a_grid_has_a_line_for_each_thing_and_a_column_for_each_number() -> None:
    stamp = {"mode": "study", "case": "sizes"}
    rows = [
        made_row("net, a", "bytes", Measurement.exact(20_000, "bytes"), stamp=stamp),
        made_row("net, a", "drop", Measurement(0.1, "points", 100, -0.1, 0.3), stamp=stamp),
        made_row("net, a", "seconds", Measurement.exact(3.0, "s"), stamp=stamp),
        made_row("net, b", "bytes", Measurement.exact(100, "bytes"), stamp=stamp),
        made_row("net, c", "refused", reason="no kernel", stamp=stamp),
        made_row("other", "bytes", Measurement.exact(5, "bytes"), stamp=stamp),
        made_row("", DONE, Measurement.exact(12.0, "s"), stamp=stamp),
    ]
    text = "<!-- table: bench grid sizes | bytes, drop; net* -->\nold\n<!-- end of table -->"
    filled = fill(text, rows, "page").splitlines()
    assert filled[1:5] == [
        "| | bytes | drop |", "|---|--:|--:|", "| net, a | 20,000 bytes | 0.1 points [-0.1, 0.3] |",
        "| net, b | 100 bytes | – |",
    ]  # fmt: skip
    assert "* net, c refused: no kernel" in filled
    assert not any("other" in line or "old" in line for line in filled)


def test_parts_of_a_study_share_a_table_and_are_told_apart_below_it() -> None:
    rows = []
    for part, size in (("lenet5", 20), ("vgg", 30)):
        stamp = {"mode": "study", "case": f"sizes:{part}"}
        rows.append(made_row(f"{part}, a", "bytes", Measurement.exact(size, "bytes"), stamp=stamp))
        rows.append(made_row("", DONE, Measurement.exact(12.0, "s"), stamp=stamp))
    filled = fill("<!-- table: bench grid sizes | bytes -->\n<!-- end of table -->", rows, "page").splitlines()
    assert filled[3:6] == ["| lenet5, a | 20 bytes |", "| vgg, a | 30 bytes |", ""]
    assert [line[:16] for line in filled[6:8]] == ["* sizes:lenet5: ", "* sizes:vgg: `py"]
    only = fill("<!-- table: bench grid sizes:v* | bytes -->\n<!-- end of table -->", rows, "page")
    assert "vgg, a" in only and "lenet5" not in only


def test_cells_have_a_line_for_each_form_and_a_column_for_each_network() -> None:
    stamp = {"mode": "study", "case": "runtimes"}
    rows = [
        made_row("net, one float", "latency", Measurement(0.12345, "ms", 9, 0.1, 0.2), stamp=stamp),
        made_row("net, one float", "file", Measurement.exact(1_234_567, "bytes"), stamp=stamp),
        made_row("net, two int8", "refused", reason="no kernel", stamp=stamp),
        made_row("other, two int8", "latency", Measurement.exact(2.0, "ms"), stamp=stamp),
        made_row("third, two int8", "latency", Measurement.exact(3.0, "ms"), stamp=stamp),
        made_row("", DONE, Measurement.exact(12.0, "s"), stamp=stamp),
    ]
    text = "<!-- table: bench cells runtimes | latency, file; net, other -->\n<!-- end of table -->"
    assert fill(text, rows, "page").splitlines()[1:5] == [
        "| | net | other |", "|---|---|---|", "| one float | 0.123 ms · 1.23 MB | – |", "| two int8 | refused | 2 ms |",
    ]  # fmt: skip

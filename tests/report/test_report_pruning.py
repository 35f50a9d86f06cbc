"""The page of a pruning run."""

from __future__ import annotations

import json

import pytest
from made_results import HOSTILE, number

from packlight.report.pruning import figure, page

ALONE = [
    {"name": "stem", "kind": "channels", "units": 16, "shares": [0.75, 0.5],
     "drop": [number(0.5, "points", 0.2, 400), number(4.0, "points", 1.0, 400)]},
    {"name": "body", "kind": "channels", "units": 8, "shares": [0.75, 0.5],
     "drop": [number(-0.25, "points", 0.3, 400), number(1.0, "points", 0.5, 400)]},
]  # fmt: skip


def found(**changes) -> dict:
    made = {
        "split": "test", "notes": [], "params": [1000, 400], "macs": [20_000, 5_000], "weight_bytes": [4000, 1600],
        "widths": [{"layer": "stem", "operator": "conv2d", "before": 16, "after": 4},
                   {"layer": "head", "operator": "linear", "before": 10, "after": 10}],
        "quality": {"before": number(91.0, "%", 1.0, 400), "after": number(89.5, "%", 1.0, 400),
                    "control": number(92.0, "%", 1.0, 400)},
        "drop": {"before": number(1.5, "points", 0.7, 400), "control": number(2.5, "points", 0.9, 400)},
    }  # fmt: skip
    return made | changes


def test_sizes_scores_and_drops_are_told() -> None:
    text = page(found(), "net").replace("\u00a0", " ")
    for said in ("40.0 % of 1.00 k", "25.0 % of 20.0 k", "1.600 kB", "91.0", "1.50 points", "2.50 points",
                 "control: as it was, trained the same way", "On the test data"):  # fmt: skip
        assert said in text, said


def test_a_bar_is_as_long_as_what_is_left_of_a_track_as_long_as_the_layer_was_wide() -> None:
    text = page(found(), "net")
    assert 'style="width: 100.0%"><span class="stays" style="width: 25%"' in text
    assert 'style="width: 62.5%"><span class="stays" style="width: 100%"' in text
    assert text.count('<tr class="whole">') == 1


def test_without_data_or_sensitivity_these_sections_are_left_out() -> None:
    text = page(found(quality={}, drop={}, split=None), "net")
    assert "<h2>Scores" not in text and "<h2>Sensitivity" not in text and "<h2>Notes" not in text
    assert "plotly" not in text.split("</style>")[-1] and len(text) < 60_000


def test_sensitivity_is_drawn_by_family_and_share() -> None:
    (trace,) = figure(ALONE)["data"]
    assert trace["y"] == ["body (8)", "stem (16)"] and trace["x"] == ["75 % kept", "50 % kept"]
    assert trace["z"] == [[-0.25, 1.0], [0.5, 4.0]] and trace["zmax"] == 4.0
    assert "<h2>Sensitivity" in page(found(sensitivity=ALONE), "net")


@pytest.mark.parametrize("where", ["name", "layer", "note", "family"])
def test_a_hostile_name_is_text(where: str) -> None:
    made = found()
    made["widths"][0]["layer"] = HOSTILE if where == "layer" else "stem"
    made["notes"] = [HOSTILE] if where == "note" else []
    made["sensitivity"] = json.loads(json.dumps(ALONE))
    made["sensitivity"][0]["name"] = HOSTILE if where == "family" else "stem"
    text = page(made, HOSTILE if where == "name" else "net")
    assert HOSTILE not in text and "<script>window.hacked" not in text

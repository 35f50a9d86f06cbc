"""The page of a training run."""

from __future__ import annotations

import json

import pytest

from packlight.errors import PacklightError
from packlight.report.training import figure, page, smoothed

LOG = "".join(
    json.dumps(row) + "\n"
    for row in [
        {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 0.1, "seconds": 1.0},
        {"step": 2, "epoch": 1.0, "loss": 1.0, "learning_rate": 0.05, "seconds": 2.0},
        {"step": 2, "validation": 81.25, "metric": "accuracy"},
    ]
)


def test_losses_rates_and_scores_are_drawn_at_their_steps() -> None:
    made = figure([json.loads(line) for line in LOG.splitlines()])
    traces = {trace["name"]: (trace["x"], trace["y"]) for trace in made["data"]}
    assert traces["loss of a batch"] == ([1, 2], [2.0, 1.0]) and traces["learning rate"] == ([1, 2], [0.1, 0.05])
    assert traces["accuracy, validation"] == ([2], [81.25])


def test_the_page_is_whole_and_escapes_names() -> None:
    text = page(LOG, "<run>")
    assert "&lt;run&gt;" in text and "<h1><run>" not in text and "81.25" in text
    assert "http" not in text.split('id="plotly"')[0].replace("http-equiv", "")


def test_smoothing_keeps_constants_and_means() -> None:
    assert smoothed([3.0] * 50) == [3.0] * 50
    assert smoothed([float(i % 2) for i in range(100)])[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "nothing\n", '{"a": 1}\n', "[1]\n"])
def test_what_is_no_log_is_one_clear_error(text: str) -> None:
    with pytest.raises(PacklightError, match="training log"):
        page(text, "run")

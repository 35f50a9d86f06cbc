"""The plot's figure, before a browser draws it."""

import base64
import gzip

import pytest
from made_results import baseline, form, many, number, result

from packlight.report.plot import packed_plotly, plot, window


def trace(figure, name):
    return next(t for t in figure["figure"]["data"] if t["name"] == name)


@pytest.mark.parametrize("given", [result(), many(), result(candidates=[])], ids=["one", "many", "none"])
def test_the_figure_is_one_that_plotly_accepts(given):
    go = pytest.importorskip("plotly.graph_objects")
    figure = plot(given)["figure"]
    assert len(go.Figure(figure).data) == len(figure["data"])


def test_a_form_stands_at_its_latency_and_drop_with_both_intervals():
    best = trace(plot(result(form("int8", latency=0.8, drop=0.25))), "best")
    assert (best["x"], best["y"]) == ([0.8], [0.25])
    assert best["error_x"]["array"] == pytest.approx([0.024])
    assert best["error_y"]["arrayminus"] == pytest.approx([0.08])


def test_every_form_is_drawn_once_under_its_role():
    figure = plot(many(25))["figure"]
    assert sum(len(t["x"]) for t in figure["data"]) == 27
    assert {t["name"]: len(t["x"]) for t in figure["data"]}["float baseline"] == 1


def test_a_refused_form_is_hollow_and_says_why():
    refused = trace(plot(result(candidates=[form("int8"), form("float16", refused="slower: 1.2×")])), "refused")
    assert refused["marker"]["symbol"].endswith("-open")
    assert "refused: slower: 1.2×" in refused["hovertext"][0]


def test_the_area_of_a_marker_is_the_size_of_its_file():
    best = trace(plot(result()), "best")
    assert best["marker"]["sizemode"] == "area"
    assert best["marker"]["size"] == [316_530]


def test_names_cannot_speak_plotlys_html():
    hostile = '<a href="https://x.example">int8</a>'
    best = trace(plot(result(form(hostile))), "best")
    assert "<a" not in best["text"][0] + best["hovertext"][0]
    assert "&lt;a href" in best["hovertext"][0]


def test_a_long_name_is_cut_beside_its_marker_only():
    best = trace(plot(result(form("n" * 80))), "best")
    assert len(best["text"][0]) == 30
    assert best["hovertext"][0].count("n") >= 80


def test_one_far_form_does_not_flatten_the_others():
    figure = plot(many())
    assert figure["figure"]["layout"]["yaxis"]["range"][1] < 5
    assert figure["outside"][0].startswith("int8-") and "62.4" in figure["outside"][0]


@pytest.mark.parametrize(
    ("values", "far"),
    [([0.0, 0.1, 62.0], True), ([0.0, 0.1, 0.5], False), ([0.0, 62.0], False), ([0.0, 40.0, 41.0, 42.0], False)],
    ids=["far", "near", "two-forms", "most-are-far"],
)
def test_the_window_leaves_out_only_what_is_far_off(values, far):
    assert (window([(v - 0.1, v, v + 0.1) for v in values]) is not None) == far


def test_the_window_always_holds_the_best():
    spans = [(v - 0.1, v, v + 0.1) for v in (0.0, 0.1, 62.0)]
    assert window(spans, kept=spans[2:]) is None


def test_a_limit_in_reach_is_drawn_and_a_distant_one_is_not():
    near, distant = ({"drop_points": limit} for limit in (0.5, 50.0))
    shapes = plot(result(limits=near))["figure"]["layout"]["shapes"]
    assert [(s["y0"], s.get("yref", "y")) for s in shapes] == [(0.5, "y")]
    assert plot(result(limits=distant | {"file_bytes": 1}))["figure"]["layout"]["shapes"] == []


def test_a_form_without_a_latency_is_named_as_missing():
    blind = form("float16")
    blind["measurements"]["latency_ms"] = number(1.0, "ms") | {"value": None}
    assert plot(result(candidates=[form("int8"), blind]))["missing"] == ["float16"]


def test_the_baseline_that_ships_is_the_best_marker():
    float_form = baseline()
    names = [t["name"] for t in plot(result(float_form, [], baseline=float_form))["figure"]["data"]]
    assert names == ["best"]


def test_plotly_is_packed_whole_and_the_same_every_time():
    offline = pytest.importorskip("plotly.offline")
    assert gzip.decompress(base64.b64decode(packed_plotly())).decode() == offline.get_plotlyjs()
    assert len(packed_plotly()) < 2_200_000

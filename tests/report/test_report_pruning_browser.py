"""The page of a pruning run in a real headless browser that can reach no network."""

import pytest
from made_results import HOSTILE, number

from packlight.report.pruning import page

PROBE = """<script>
const seen = { violations: [], errors: [] };
for (const level of ["error", "warn"]) console[level] = (...said) => seen.errors.push(said.join(" "));
addEventListener("securitypolicyviolation", (e) => seen.violations.push(e.blockedURI + " " + e.violatedDirective));
addEventListener("error", (e) => seen.errors.push(String(e.message)));
addEventListener("unhandledrejection", (e) => seen.errors.push(String(e.reason)));
const look = () => {
  if (!document.querySelector(".heatmaplayer image")) return setTimeout(look, 50);
  const wide = (s) => [...document.querySelectorAll(s)].map((b) => b.getBoundingClientRect().width);
  seen.tracks = wide(".track");
  seen.bars = wide(".stays");
  seen.high = Math.min(...[...document.querySelectorAll(".stays")].map((b) => b.getBoundingClientRect().height));
  seen.rows = [...document.querySelectorAll(".ytick text")].map((t) => t.textContent);
  seen.cells = document.querySelectorAll(".heatmaplayer .heatmap-label text").length;
  seen.requests = performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:"));
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  seen.hacked = window.hacked ?? null;
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
};
addEventListener("load", look);
</script>"""
FOUND = {
    "split": "test", "notes": [HOSTILE], "params": [1000, 400], "macs": [20_000, 5_000], "weight_bytes": [4000, 1600],
    "widths": [{"layer": "stem", "operator": "conv2d", "before": 16, "after": 4},
               {"layer": HOSTILE, "operator": "conv2d", "before": 8, "after": 4},
               {"layer": "head", "operator": "linear", "before": 8, "after": 8}],
    "quality": {"before": number(91.0, "%", 1.0, 400), "after": number(89.5, "%", 1.0, 400)},
    "drop": {"before": number(1.5, "points", 0.7, 400)},
    "sensitivity": [{"name": name, "kind": "channels", "units": 16, "shares": [0.75, 0.5],
                     "drop": [number(0.5, "points", 0.2, 400), number(4.0, "points", 1.0, 400)]}
                    for name in ("stem", HOSTILE)],
}  # fmt: skip


@pytest.fixture(scope="module")
def seen(look):
    """What the probe saw on a page with a layer, a family and a note of a hostile name."""
    return look(page(FOUND, "net"), PROBE)


def test_nothing_goes_wrong_and_nothing_is_asked_of_the_network(seen):
    assert (seen["errors"], seen["violations"], seen["requests"]) == ([], [], [])


def test_bars_are_as_long_as_what_is_left(seen):
    tracks, bars = seen["tracks"], seen["bars"]
    assert len(tracks) == len(bars) == 3
    assert tracks[0] > 100
    assert tracks[1] == pytest.approx(tracks[0] / 2, abs=3)  # borders
    assert [b / t for b, t in zip(bars, tracks, strict=True)] == pytest.approx([0.25, 0.5, 1], abs=0.05)
    assert seen["high"] > 5


def test_the_figure_has_a_row_a_family_and_a_number_in_every_cell(seen):
    assert len(seen["rows"]) == 2 and "stem (16)" in seen["rows"]
    assert seen["cells"] == 4


def test_a_hostile_name_runs_nothing_and_the_page_does_not_scroll_sideways(seen):
    assert seen["hacked"] is None
    assert seen["wide"] <= 0

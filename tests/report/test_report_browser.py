"""The page in a real headless browser that can reach no network."""

import pytest
from made_results import HOSTILE, layer, many

from packlight.report.page import render

PROBE = """<script>
const seen = { violations: [] };
addEventListener("securitypolicyviolation", (e) => seen.violations.push(e.blockedURI + " " + e.violatedDirective));
addEventListener("error", (e) => { seen.error = String(e.message); });
addEventListener("unhandledrejection", (e) => { seen.error = String(e.reason); });
const look = () => {
  const box = document.getElementById("plot");
  if (!box.querySelector(".main-svg")) return setTimeout(look, 50);
  Plotly.Fx.hover(box, [{ curveNumber: 0, pointNumber: 0 }]);
  setTimeout(() => {
    seen.hover = box.querySelector(".hovertext")?.textContent;
    seen.requests = performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:"));
    seen.links = box.querySelectorAll("a[href]").length;
    seen.buttons = [...box.querySelectorAll(".modebar-btn")].map((b) => b.dataset.title);
    seen.markers = box.querySelectorAll(".scatterlayer .point").length;
    const shown = (label) => label.style.visibility !== "hidden";
    seen.names = [...box.querySelectorAll(".textpoint text")].filter(shown).map((t) => t.textContent);
    seen.wide = document.documentElement.scrollWidth - innerWidth;
    seen.hacked = window.hacked ?? null;
    const out = document.createElement("pre");
    out.id = "probe";
    out.textContent = JSON.stringify(seen);
    document.body.append(out);
  }, 300);
};
addEventListener("load", look);
</script>"""


@pytest.fixture(scope="module")
def seen(look):
    """What the probe saw on a page of 27 forms, the first refused one of which has a hostile name."""
    given = many()
    next(f for f in given["candidates"] if f["refused"])["name"] = HOSTILE
    given["best"]["layers"].append(layer(HOSTILE))
    return look(render(given), PROBE)


def test_the_plot_is_drawn_with_every_form_in_view(seen):
    assert "error" not in seen
    assert seen["markers"] >= 26  # 27 forms, one of them far outside the view
    assert {"baseline", "int8-mixed-keep49"} <= set(seen["names"])


def test_nothing_is_asked_of_the_network(seen):
    assert (seen["violations"], seen["requests"]) == ([], [])


def test_no_button_or_link_sends_the_reader_or_the_data_away(seen):
    assert (seen["buttons"], seen["links"]) == (["Zoom", "Pan", "Reset axes"], 0)


def test_a_hostile_name_runs_nothing_and_is_shown_letter_by_letter(seen):
    assert seen["hacked"] is None
    assert HOSTILE.replace(" ", "") in seen["hover"].replace(" ", "")


def test_the_page_does_not_scroll_sideways(seen):
    assert seen["wide"] <= 0

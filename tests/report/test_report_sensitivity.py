"""The page of layer sensitivities, in a real headless browser that can reach no network."""

import pytest
from made_results import HOSTILE

from packlight.report.sensitivity import figure, page

PROBE = """<script>
const seen = { violations: [], errors: [] };
for (const level of ["error", "warn"]) console[level] = (...said) => seen.errors.push(said.join(" "));
addEventListener("securitypolicyviolation", (e) => seen.violations.push(e.blockedURI + " " + e.violatedDirective));
addEventListener("error", (e) => seen.errors.push(String(e.message)));
const look = () => {
  if (document.querySelectorAll(".barlayer .point").length < 3) return setTimeout(look, 50);
  seen.bars = [...document.querySelectorAll(".barlayer .point path")].map((b) => b.getBoundingClientRect().width);
  seen.rows = [...document.querySelectorAll(".ytick text")].map((t) => t.textContent);
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  seen.hacked = window.hacked ?? null;
  seen.requests = performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:"));
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
};
addEventListener("load", look);
</script>"""


def found(*values: float) -> dict:
    names = ("stem", "body", HOSTILE)
    rows = [{"layer": n, "elements": 100, "value": v, "detail": {"mean": v / 100}} for n, v in zip(names, values)]  # noqa: B905
    return {"measure": "fisher", "what": "trace", "samples": 64, "layers": rows}


def test_bars_are_as_long_as_values_and_a_hostile_name_runs_nothing(look) -> None:
    seen = look(page(found(1.0, 2.0, 4.0), HOSTILE), PROBE)
    assert (seen["errors"], seen["violations"], seen["requests"], seen["hacked"]) == ([], [], [], None)
    longest = max(seen["bars"])
    assert sorted(b / longest for b in seen["bars"]) == pytest.approx([0.25, 0.5, 1], abs=0.02)
    assert len(seen["rows"]) == 3 and "stem" in seen["rows"]
    assert seen["wide"] <= 0


def test_values_that_span_many_powers_of_ten_get_a_logarithmic_axis() -> None:
    assert figure(found(1e-6, 1e-3, 1.0))["layout"]["xaxis"]["type"] == "log"
    assert figure(found(0.0, 1e-3, 1.0))["layout"]["xaxis"]["type"] == "linear"
    assert figure(found(0.1, 0.2, 1.0))["layout"]["xaxis"]["type"] == "linear"

"""The page as HTML: what it holds, that it escapes, and that it asks for nothing."""

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from made_results import HOSTILE, baseline, form, layer, many, result

from packlight.report.page import render

VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects tags with their attributes and the text of everything but scripts and styles; checks nesting."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.scripts, self.open = [], [], {}, []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[self.tags[-1][1].get("id")] = data
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())


def hostile():
    best = form(
        HOSTILE,
        layers=[layer(HOSTILE, bits=32), layer("head")],
        notes=[f"{HOSTILE} stays in float: {HOSTILE}", HOSTILE],
    )
    best["recipe"] = f"load(from={HOSTILE}) → {HOSTILE}"
    return result(
        best, [best, form("b", refused=HOSTILE)], name=HOSTILE, task=HOSTILE, target=HOSTILE, reason=HOSTILE, met=False,
        skipped={HOSTILE: HOSTILE}, machine={"processor": HOSTILE, HOSTILE: [HOSTILE]}, budget=HOSTILE,
    )  # fmt: skip


@pytest.mark.parametrize("make", [result, many, hostile], ids=["one", "many", "hostile"])
def test_the_page_is_well_formed_and_its_tables_are_captioned(make):
    tags = [tag for tag, _ in Page(render(make())).tags]
    assert tags.count("table") == tags.count("caption") >= 3
    assert tags.count("h1") == 1
    assert all("scope" in attrs for tag, attrs in Page(render(make())).tags if tag == "th")


def test_the_page_holds_the_numbers():
    words = Page(render(result())).words
    for text in (
        "ResNet20", "Budget met and proven", "int8 ships", "3.46× smaller", "2.00× faster", "1.96× to 2.04×",
        "0.03 points", "−0.05 to 0.11", "91.23 %", "91.20 %", "test data, n = 10,000", "1.096 MB", "316.5 kB",
        "1.70 ms", "0.850 ms", "60.0 ms", "30.26 MB", "9,321 samples/s", "int8 keeps the budget already",
        "stem.0", "1 × 32 × 14 × 14", "9,248", "1.81 M", "Intel(R) Xeon(R) Processor", "1 min 41 s", "fold(layers=21)",
    ):  # fmt: skip
        assert text in words, text


def test_a_number_one_percent_off_is_not_on_the_page():
    assert "3.50× smaller" not in Page(render(result())).words


def test_a_refused_and_a_skipped_form_give_their_reasons():
    words = Page(render(result(candidates=[form("int8"), form("float16", refused="slower: 1.71×")]))).words
    assert "Refused: slower: 1.71×" in words
    assert "int8-minmax int8 keeps the budget already" in words


def test_hostile_names_stay_text():
    page = Page(render(hostile()))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert len([tag for tag, _ in page.tags if tag == "script"]) == len(Page(render(result())).scripts)
    assert "window.hacked = 1" in page.words
    labels = [label for t in json.loads(page.scripts["figure"])["data"] for label in t["text"]]
    assert any(label.startswith("&lt;/script&gt;") for label in labels)


@pytest.mark.parametrize("make", [result, many], ids=["one", "many"])
def test_nothing_points_outside(make):
    html = render(make())
    for tag, attrs in Page(html).tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, attrs)
    assert not re.search(r"https?:|url\(|@import", html)
    policy = next(a["content"] for _, a in Page(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_optional_thing_can_be_missing():
    bare = Page(render({"baseline": {"name": "baseline"}, "best": {"name": "int8"}}))
    assert "nearest miss is int8" in bare.words
    assert "figure" not in bare.scripts


@pytest.mark.parametrize("key", sorted(result()))
def test_each_key_but_baseline_and_best_can_be_missing(key):
    given = result()
    if key not in ("baseline", "best"):
        del given[key]
    render(given)


@pytest.mark.parametrize("key", sorted(form("int8")["measurements"]))
@pytest.mark.parametrize("where", ["baseline", "best"])
def test_each_measurement_can_be_missing(where, key):
    given = copy.deepcopy(result())
    given[where]["measurements"].pop(key, None)
    Page(render(given))


def test_a_baseline_that_ships_has_one_column():
    float_form = baseline()
    page = Page(render(result(float_form, [form("int8", refused="slower")], baseline=float_form)))
    assert "Nothing tried was better; the float file ships." in page.words
    assert "Change" not in page.words


def test_importing_the_report_imports_nothing_heavy():
    code = "import sys, packlight.report.page; print({'torch', 'jinja2', 'plotly', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"

"""Splits: fixed by content, groups whole, copies dropped first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packlight.errors import PacklightError
from packlight.task.readers.splits import Corpus, Sample, distinct, split, text_id
from packlight.task.readers.versions import versions

SHARES = {"test": 0.4, "validation": 0.15}
groups_of_samples = st.lists(st.sampled_from([f"g{i}" for i in range(40)]), max_size=120)


def samples(contents: list[str], label: int = 0) -> list[Sample[str]]:
    return [Sample(text_id(c), c, label, text_id(c)) for c in contents]


@given(groups_of_samples)
def test_every_sample_is_in_one_part(groups):
    parts = split(groups, SHARES)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(groups)))


@given(groups_of_samples)
def test_groups_stay_whole(groups):
    found = [{groups[i] for i in positions} for positions in split(groups, SHARES).values()]
    assert sum(map(len, found)) == len(set(groups))


@given(groups_of_samples, st.randoms())
def test_the_order_of_reading_changes_nothing(groups, random):
    order = list(range(len(groups)))
    random.shuffle(order)
    before = split(groups, SHARES)
    after = split([groups[i] for i in order], SHARES)
    for name in before:
        assert sorted(groups[i] for i in before[name]) == sorted(groups[order[i]] for i in after[name])


@given(st.integers(20, 300))
def test_parts_reach_their_shares_and_pass_them_by_less_than_one(n):
    parts = split([str(i) for i in range(n)], SHARES)
    assert 0.4 * n <= len(parts["test"]) < 0.4 * n + 1
    assert 0.15 * n <= len(parts["validation"]) < 0.15 * n + 1


def test_the_salt_decides_who_goes_where():
    groups = [str(i) for i in range(100)]
    assert split(groups, SHARES, "a")["test"].tolist() != split(groups, SHARES, "b")["test"].tolist()


def test_a_split_by_hand():
    """sha256 of "xc" begins with 207f, of "xa" with 8f26, of "xb" with ff10: c and a have half of four samples."""
    parts = split(["a", "b", "c", "b"], {"test": 0.5}, salt="x")
    assert parts["test"].tolist() == [0, 2] and parts["train"].tolist() == [1, 3]


def test_distinct_keeps_the_first_of_each_in_the_order_of_ids():
    assert distinct(["b", "a", "b", "c", "a"], exclude=["c"]).tolist() == [1, 0]


def test_texts_are_copies_whatever_their_case_and_white_space():
    assert text_id("Rain  in\n Spain ") == text_id("rain in spain") != text_id("rain in spam")


def test_copies_are_dropped_before_the_split():
    words = [f"word {i}" for i in range(50)]
    once, twice = Corpus.of(samples(words), "x"), Corpus.of(samples(words + words[:25]), "x")
    assert once.ids == twice.ids and once.manifest() == twice.manifest()
    assert once.ids == tuple(sorted(once.ids))


def test_a_content_with_two_labels_is_dropped_altogether():
    words = [f"word {i}" for i in range(50)]
    corpus = Corpus.of(samples(words) + samples(words[:5], label=1), "x")
    assert len(corpus.ids) == 45 and corpus.labels.sum() == 0


def test_calibration_is_the_start_of_training():
    corpus = Corpus.of(samples([str(i) for i in range(1000)]), "x")
    assert corpus.parts["calibration"].tolist() == corpus.parts["train"][:256].tolist()


def test_too_few_samples_are_one_line():
    with pytest.raises(PacklightError, match="x: 2 distinct samples are too few for a train split"):
        Corpus.of(samples(["a", "b"]), "x")


def test_the_manifest_notices_a_changed_sample():
    words = [f"word {i}" for i in range(50)]
    before, after = (Corpus.of(samples(w), "x").manifest() for w in (words, [*words[:-1], "other"]))
    assert any(before[part]["sha256"] != after[part]["sha256"] for part in before)


# versions of a text

STORY = " ".join(f"{a} {b}" for a in ("one two six ten old new".split()) for b in "rain snow hail wind fog sun".split())


@pytest.mark.parametrize(
    ("other", "same"),
    [
        pytest.param(STORY.upper(), True, id="upper case"),
        pytest.param("Updated: " + STORY, True, id="another headline"),
        pytest.param(STORY.replace("one", "1234"), True, id="some words changed"),
        pytest.param(STORY + " 99 http", True, id="a tracking number"),
        pytest.param(" ".join(reversed(STORY.split())), False, id="same words, other order"),
        pytest.param(STORY[:120] + " and then" * 300, True, id="same opening"),
        pytest.param("fog", False, id="one word"),
        pytest.param("", False, id="empty"),
    ],
)
def test_versions_of_a_text_share_a_group(other, same):
    groups = versions(["something else entirely", STORY, other])
    assert (groups[1] == groups[2]) is same
    assert groups[0] not in groups[1:]


def test_versions_are_transitive():
    words = STORY.split()
    a, b, c = (" ".join(words[i : i + 30]) for i in (0, 10, 20))
    assert len(set(versions([a, b, c]))) == 1
    assert len(set(versions([a, c]))) == 2

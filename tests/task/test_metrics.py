"""Metrics, against scikit-learn on real digits and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    jaccard_score,
    mean_squared_error,
    top_k_accuracy_score,
)

from packlight.errors import PacklightError
from packlight.task import Metric
from packlight.task.metrics import NAMED, agreement_rows, decisions, metric, top_k

# Both sides average the same numbers in float64: only the order of the sums differs.
CLOSE = 1e-9


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, 10] of a weak classifier, and labels, of 1,297 real handwritten digits."""
    x, y = load_digits(return_X_y=True)
    weak = LogisticRegression(C=1e-3).fit(x[:200, ::5], y[:200])
    return weak.decision_function(x[500:, ::5]).astype(np.float32), y[500:]


def value(name: str | Metric, scores: np.ndarray, labels: np.ndarray, batch: int = 100) -> float:
    found = metric(name)
    rows = [found.per_sample((scores[i : i + batch],), labels[i : i + batch]) for i in range(0, len(labels), batch)]
    return found.aggregate(np.concatenate(rows))


REFERENCES = {
    "accuracy": lambda s, y: accuracy_score(y, s.argmax(1)),
    "top5": lambda s, y: top_k_accuracy_score(y, s, k=5, labels=range(10)),
    "f1": lambda s, y: f1_score(y, s.argmax(1), average="macro"),
    "recall": lambda s, y: balanced_accuracy_score(y, s.argmax(1)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_metrics_equal_scikit_learns_on_real_digits(name, digits):
    scores, labels = digits
    wanted = 100 * REFERENCES[name](scores, labels)
    assert 50 < wanted < 100
    assert value(name, scores, labels) == pytest.approx(wanted, abs=CLOSE)


@pytest.mark.parametrize("name", REFERENCES)
def test_one_more_mistake_is_noticed(name, digits):
    scores, labels = digits[0].copy(), digits[1]
    right = int(np.flatnonzero(scores.argmax(1) == labels)[0])
    scores[right, labels[right]] = -1e9
    assert value(name, scores, labels) < value(name, *digits) - CLOSE


@pytest.mark.parametrize("name", ["f1", "recall"])
def test_classes_that_do_not_occur_count_as_scikit_learn_counts_them(name, digits):
    kept = np.isin(digits[1], (1, 2, 7))
    scores, labels = digits[0][kept], digits[1][kept]
    with np.errstate(all="raise"):
        got = value(name, scores, labels)
    predicted = scores.argmax(1)
    wanted = f1_score(labels, predicted, average="macro") if name == "f1" else np.mean(
        [(predicted[labels == c] == c).mean() for c in (1, 2, 7)])  # fmt: skip
    assert got == pytest.approx(100 * wanted, abs=CLOSE)


def test_mean_squared_error_equals_scikit_learns(digits):
    rng = np.random.default_rng(0)
    wanted, got = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    assert value("mse", got, wanted, batch=7) == pytest.approx(
        mean_squared_error(wanted, got), rel=1e-6
    )  # float32 inputs
    assert not metric("mse").higher_is_better


def test_the_batch_size_changes_nothing(digits):
    for name in REFERENCES:
        assert value(name, *digits, batch=1) == value(name, *digits, batch=10**6)


def test_ties_count_for_the_lower_class():
    scores = np.array([[1.0, 1.0, 0.0]] * 3)
    assert metric("accuracy").per_sample((scores,), np.array([0, 1, 2])).ravel().tolist() == [1, 0, 0]
    assert top_k(2).per_sample((scores,), np.array([0, 1, 2])).ravel().tolist() == [1, 1, 0]


def test_equal_scores_everywhere_are_right_only_for_class_zero():
    assert metric("accuracy").per_sample((np.zeros((3, 3)),), np.array([0, 1, 2])).ravel().tolist() == [1, 0, 0]


def test_a_share_of_pixels_is_averaged_a_sample():
    scores = np.zeros((2, 3, 2, 2))
    scores[:, 1] = 1
    labels = np.array([[[1, 1], [1, 1]], [[1, 1], [0, 2]]])
    assert metric("accuracy").per_sample((scores,), labels).ravel().tolist() == [1.0, 0.5]


def test_minus_infinity_rules_a_class_out():
    scores = np.array([[-np.inf, 0.0]])
    assert metric("accuracy").per_sample((scores,), np.array([1])).ravel().tolist() == [1]


def test_rows_are_zero_or_one_where_a_metric_says_so(digits):
    for name in ("accuracy", "top5"):
        assert metric(name).binary
        assert set(metric(name).per_sample((digits[0],), digits[1]).ravel()) == {0.0, 1.0}
    assert not any(metric(n).binary for n in ("f1", "recall", "mse"))


SCORES = np.zeros((4, 3), np.float32)
WRONG = {
    "label too high": (SCORES, np.array([0, 1, 2, 3]), "labels range from 0 to 3, the network has classes 0 to 2"),
    "label below zero": (SCORES, np.array([0, -1, 2, 1]), "labels range from -1 to 2"),
    "labels of floats": (SCORES, np.zeros(4), "labels must be integers, got float64"),
    "one-hot labels": (
        SCORES,
        np.eye(4, 3, dtype=int),
        r"outputs of shape \[4, 3\] do not fit labels of shape \[4, 3\]",
    ),
    "too few labels": (SCORES, np.zeros(3, int), r"do not fit labels of shape \[3\]"),
    "scores without classes": (SCORES[:, 0], np.zeros(4, int), r"outputs of shape \[4\]"),
    "nan": (
        np.where(np.eye(4, 3) > 0, np.nan, SCORES),
        np.zeros(4, int),
        "3 of 12 values of the network's output are NaN",
    ),
    "infinity": (SCORES + np.inf, np.zeros(4, int), "12 of 12 values"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("name", ["accuracy", "f1", "recall"])
def test_what_cannot_be_scored_is_one_line(case, name):
    scores, labels, reason = WRONG[case]
    with pytest.raises(PacklightError, match=reason) as error:
        metric(name).per_sample((scores,), labels)
    assert "\n" not in str(error.value)


def test_a_regression_that_cannot_be_scored_is_one_line():
    with pytest.raises(PacklightError, match=r"outputs \[4, 3\] and targets \[4\] differ in shape"):
        metric("mse").per_sample((SCORES,), np.zeros(4))
    with pytest.raises(PacklightError, match="12 of 12 values of the network's output are NaN"):
        metric("mse").per_sample((SCORES * np.nan,), SCORES)


@pytest.mark.parametrize("k", [0, -1])
def test_the_best_none_are_refused(k):
    with pytest.raises(PacklightError, match=f"top-k needs k >= 1, got {k}"):
        top_k(k)


def test_the_best_of_all_classes_are_refused():
    with pytest.raises(PacklightError, match="top-3 of 3 classes is always right"):
        top_k(3).per_sample((SCORES,), np.zeros(4, int))


def test_unknown_metrics_name_the_known_ones():
    with pytest.raises(PacklightError, match=f"no metric 'acuracy'; choose one of {', '.join(NAMED)}"):
        metric("acuracy")


def test_a_metric_of_ones_own_is_taken_as_it_is():
    own = Metric(
        "wer", lambda outputs, targets: np.ones((len(targets), 2)), lambda rows: float(rows.sum()), unit="words"
    )
    assert metric(own) is own
    assert value(own, SCORES, np.zeros(4, int)) == 8.0


# agreement


def test_classes_agree_by_decision():
    a, b = np.array([[1.0, 2, 0], [3, 1, 1]]), np.array([[0.0, 9, 0], [1, 2, 1]])
    assert agreement_rows(decisions((a,)), decisions((b,))).ravel().tolist() == [1, 0]


def test_numbers_agree_within_one_percent_of_the_samples_largest():
    reference = np.array([[100.0], [100.0], [0.0]])
    close = np.array([[100.9], [101.1], [0.0]])
    assert agreement_rows(decisions((close,)), decisions((reference,))).ravel().tolist() == [1, 0, 1]


def test_a_number_that_is_nan_does_not_agree():
    assert agreement_rows(np.array([[np.nan]]), np.array([[1.0]])).ravel().tolist() == [0]


def test_mean_iou_counts_the_pixels_of_all_samples_together():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 3, (5, 6, 4)), random.normal(size=(5, 4, 6, 4))
    scores[:, 3] = -9  # a class that nobody has and nobody predicts does not count
    found = metric("mean_iou").aggregate(metric("mean_iou").per_sample((scores,), labels))
    expected = jaccard_score(labels.ravel(), scores.argmax(1).ravel(), average="macro")
    assert found == pytest.approx(100 * expected)


def test_perplexity_of_an_even_guess_is_the_number_of_words():
    measure = metric("perplexity")
    rows = measure.per_sample([np.zeros((3, 50, 7), np.float32)], np.full((3, 7), 4))
    assert rows.shape == (3, 1) and measure.aggregate(rows) == pytest.approx(50)
    assert not measure.higher_is_better


def test_perplexity_by_hand():
    """Two tokens that get 1/2 and 1/8: exp(mean of ln 2 and ln 8) = 4."""
    scores = np.log([[[1 / 2, 3 / 8], [1 / 4, 1 / 8], [1 / 4, 1 / 2]]])
    measure = metric("perplexity")
    assert measure.aggregate(measure.per_sample([scores], np.array([[0, 1]]))) == pytest.approx(4)


def test_perplexity_of_other_shapes_is_refused():
    with pytest.raises(PacklightError, match="do not fit labels"):
        metric("perplexity").per_sample([np.zeros((3, 7, 50))], np.zeros((3, 7), np.int64))

"""Metrics as per-sample statistics plus an aggregate, so that every metric gets a paired interval.

A metric never sees the whole set at once: `per_sample` turns one batch into a row a sample, and `aggregate`
turns any selection of rows into the number. Two models are compared by resampling the same rows of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError

Array = NDArray[Any]
PerSample = Callable[[Sequence[Array], Array], Array]


@dataclass(frozen=True)
class Metric:
    """How well outputs fit targets.

    per_sample(outputs, targets) -> float array [n, k]. aggregate(rows [n, k]) -> the metric's value.
    unit: "%" for shares in 0..100, else a word. binary: rows are 0 or 1 and the value is 100 × their mean,
    which earns an exact paired interval. higher_is_better: False for error rates and perplexity.
    """

    name: str
    per_sample: PerSample
    aggregate: Callable[[Array], float]
    unit: str = "%"
    higher_is_better: bool = True
    binary: bool = False


def _share(rows: Array) -> float:
    return 100.0 * float(rows.mean())


def _logits(outputs: Sequence[Array], targets: Array) -> tuple[Array, Array]:
    """Class scores [n, classes, …] and integer labels [n, …], checked against each other."""
    scores, labels = outputs[0], np.asarray(targets)
    if scores.ndim < 2 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise PacklightError(
            f"outputs of shape {list(scores.shape)} do not fit labels of shape {list(labels.shape)}; "
            "expected scores [n, classes] and labels [n]"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise PacklightError(f"labels must be integers, got {labels.dtype}")
    classes = scores.shape[1]
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise PacklightError(
            f"labels range from {labels.min()} to {labels.max()}, the network has classes 0 to {classes - 1}"
        )
    check_outputs(scores)
    return scores, labels


def check_outputs(values: Array) -> None:
    """Raise PacklightError on NaN or +infinity; −infinity is how networks rule a class out."""
    bad = int(values.size - (values < np.inf).sum())
    if bad:
        raise PacklightError(f"{bad} of {values.size} values of the network's output are NaN or infinite")


def top_k(k: int = 1) -> Metric:
    """Share of samples whose label is among the k highest scores; ties count for the lower class index."""
    if k < 1:
        raise PacklightError(f"top-k needs k >= 1, got {k}")

    def per_sample(outputs: Sequence[Array], targets: Array) -> Array:
        scores, labels = _logits(outputs, targets)
        if k >= scores.shape[1] and k > 1:
            raise PacklightError(f"top-{k} of {scores.shape[1]} classes is always right; choose a smaller k")
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        index = np.arange(scores.shape[1]).reshape(-1, *([1] * (scores.ndim - 2)))
        ahead = (scores > own) | ((scores == own) & (index < labels[:, None]))
        hits = (ahead.sum(axis=1) < k).astype(np.float64)
        return hits.reshape(len(hits), -1).mean(axis=1, keepdims=True)

    return Metric("accuracy" if k == 1 else f"top{k}_accuracy", per_sample, _share, binary=True)


def accuracy() -> Metric:
    """Share of samples whose highest score is the label's, in percent (per pixel or token, averaged a sample)."""
    return top_k(1)


def _predictions(outputs: Sequence[Array], targets: Array) -> Array:
    scores, labels = _logits(outputs, targets)
    if scores.ndim != 2:
        raise PacklightError(f"expected scores [n, classes], got {list(scores.shape)}")
    return np.stack([labels, scores.argmax(1)], axis=1).astype(np.float64)


def _counts(rows: Array) -> tuple[Array, Array, Array]:
    """True positives, labels and predictions a class, over the classes that occur."""
    labels, predicted = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    classes = int(max(labels.max(), predicted.max())) + 1
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    return hits, np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)


def f1() -> Metric:
    """Macro F1 in percent: 2·TP / (labels + predictions) a class, averaged over classes that occur in either."""

    def aggregate(rows: Array) -> float:
        hits, labels, predicted = _counts(rows)
        seen = labels + predicted > 0
        return 100.0 * float(np.mean(2 * hits[seen] / (labels + predicted)[seen]))

    return Metric("f1", _predictions, aggregate)


def recall() -> Metric:
    """Macro recall (balanced accuracy) in percent: TP / labels a class, averaged over classes that occur."""

    def aggregate(rows: Array) -> float:
        hits, labels, _ = _counts(rows)
        seen = labels > 0
        return 100.0 * float(np.mean(hits[seen] / labels[seen]))

    return Metric("recall", _predictions, aggregate)


def mean_iou() -> Metric:
    """Mean intersection over union in percent, for segmentation: scores [n, classes, …], labels [n, …].

    Pixels of all samples are counted together a class; the mean is over classes that occur in labels or predictions
    (Everingham et al. 2015, section 3.3).
    """

    def per_sample(outputs: Sequence[Array], targets: Array) -> Array:
        scores, labels = _logits(outputs, targets)
        classes = np.arange(scores.shape[1])
        if scores.ndim < 3:
            raise PacklightError(f"mean_iou needs scores [n, classes, …] a pixel, got {list(scores.shape)}")
        mine = scores.argmax(1).reshape(len(scores), -1, 1) == classes
        theirs = labels.reshape(len(labels), -1, 1) == classes
        return np.concatenate([(mine & theirs).sum(1), (mine | theirs).sum(1)], axis=1).astype(np.float64)

    def aggregate(rows: Array) -> float:
        both, either = np.split(rows.sum(0), 2)
        seen = either > 0
        return 100.0 * float(np.mean(both[seen] / either[seen]))

    return Metric("mean_iou", per_sample, aggregate)


def perplexity() -> Metric:
    """exp of the mean negative log-likelihood a token, of scores [n, classes, …] and labels [n, …]; lower is better.

    Tokens count alike where every sample has as many of them.
    """

    def per_sample(outputs: Sequence[Array], targets: Array) -> Array:
        from scipy.special import logsumexp

        scores, labels = _logits(outputs, targets)
        scores = scores.astype(np.float64)
        own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
        loss = logsumexp(scores, axis=1) - own
        return loss.reshape(len(loss), -1).mean(axis=1, keepdims=True)

    return Metric(
        "perplexity", per_sample, lambda rows: float(np.exp(rows.mean())), unit="perplexity", higher_is_better=False
    )


def mean_squared_error() -> Metric:
    """Mean squared error over all elements of the first output, for regression; lower is better."""

    def per_sample(outputs: Sequence[Array], targets: Array) -> Array:
        if outputs[0].shape != targets.shape:
            raise PacklightError(f"outputs {list(outputs[0].shape)} and targets {list(targets.shape)} differ in shape")
        check_outputs(outputs[0])
        squares = (outputs[0].astype(np.float64) - targets) ** 2
        return squares.reshape(len(squares), -1).mean(axis=1, keepdims=True)

    return Metric("mse", per_sample, lambda rows: float(rows.mean()), unit="squared error", higher_is_better=False)


NAMED: dict[str, Callable[[], Metric]] = {
    "accuracy": accuracy, "top5": lambda: top_k(5), "f1": f1, "recall": recall, "mean_iou": mean_iou,
    "perplexity": perplexity, "mse": mean_squared_error,
}  # fmt: skip


def metric(name: str | Metric) -> Metric:
    """A metric by name ("accuracy", "top5", "f1", "recall", "mean_iou", "perplexity", "mse"), or the one given."""
    if isinstance(name, Metric):
        return name
    if name not in NAMED:
        raise PacklightError(f"no metric {name!r}; choose one of {', '.join(NAMED)} or give a Metric")
    return NAMED[name]()


def scored(metric: Metric, outputs: tuple[Array, ...], targets: Array) -> Array:
    """A metric's rows [n, k] of one batch, or a PacklightError that says what it could not work with."""
    n = len(targets)
    try:
        rows = np.asarray(metric.per_sample(outputs, targets), dtype=np.float64)
    except PacklightError:
        raise
    except Exception as error:  # a metric may be the user's own code: anything can be raised
        raise PacklightError(f"metric {metric.name!r} failed: {type(error).__name__}: {error}") from error
    if rows.ndim != 2 or len(rows) != n:
        raise PacklightError(
            f"metric {metric.name!r} gave shape {list(rows.shape)} for {n} samples; per_sample must return [{n}, k]"
        )
    bad = int((~np.isfinite(rows)).any(axis=1).sum())
    if bad:
        raise PacklightError(
            f"metric {metric.name!r} is NaN or infinite for {bad} of {n} samples: "
            "the network's output or the targets hold NaN or infinity"
        )
    return rows


def decisions(outputs: Sequence[Array]) -> Array:
    """What a network decides from its first output: the class of the highest score where there are classes
    ([n, classes, …] → integers [n, …]), else the output itself."""
    first = outputs[0]
    return first.argmax(1).astype(np.int32) if first.ndim >= 2 and first.shape[1] > 1 else first


def agreement_rows(mine: Array, theirs: Array) -> Array:
    """Share of equal decisions a sample, [n, 1]; real-valued ones are equal within 1 % of the sample's largest."""
    if np.issubdtype(theirs.dtype, np.integer):
        same = (mine == theirs).astype(np.float64)
    else:
        reach = np.abs(theirs).reshape(len(theirs), -1).max(axis=1, initial=0.0)
        same = (np.abs(mine - theirs) <= 0.01 * reach.reshape(-1, *([1] * (theirs.ndim - 1)))).astype(np.float64)
    return same.reshape(len(same), -1).mean(axis=1, keepdims=True)

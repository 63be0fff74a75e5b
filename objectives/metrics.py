"""Every trial's numbers, computed the same way from the similarities of labelled pairs.

sentence-transformers' own evaluator has no ROC AUC, and reports each measure at a threshold of its
own. Here one threshold, the most accurate one, serves every measure that needs one, because that is
how a deployed model is used. NumPy only: 40,000 pairs take a few tens of milliseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve: P(score of a positive > score of a negative), ties half.

    The rank form of the Mann-Whitney statistic: (R - p(p+1)/2) / (p n), where R sums the midranks
    of the p positives among all p + n scores.

    Args:
        labels: Shape (pairs,), 1 for the same meaning and 0 for not.
        scores: Shape (pairs,), higher for more similar; finite.

    Raises:
        ValueError: Shapes differ, a score is not finite, or one class is missing.
    """
    truth, values = _checked(labels, scores)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    midranks = (last - (counts - 1) / 2)[inverse]
    positives = int(truth.sum())
    negatives = truth.size - positives
    rank_sum = float(midranks[truth].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the average precision: sum over thresholds of (gain in recall) x precision.

    Equal scores form one threshold, so the order of the pairs does not matter. Arguments and errors
    as for :func:`roc_auc`.
    """
    truth, values = _checked(labels, scores)
    _, hits, predicted = _by_threshold(truth, values)
    gains = np.diff(hits, prepend=0.0) / truth.sum()
    return float((gains * hits / predicted).sum())


def best_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold t for which "score >= t means the same" is right most often.

    It lies half-way between two neighbouring scores, or at the lowest or just above the highest
    score. Of several equally good ones the highest is taken: it calls fewer pairs the same.
    Arguments and errors as for :func:`roc_auc`.
    """
    truth, values = _checked(labels, scores)
    distinct, hits, predicted = _by_threshold(truth, values)
    # Index 0 predicts no pair positive; index k predicts the k highest distinct scores.
    right_positives = np.concatenate(([0.0], hits))
    wrong_positives = np.concatenate(([0.0], predicted - hits))
    best = int(np.argmax(right_positives - wrong_positives))
    if best == 0:
        return float(np.nextafter(distinct[0], np.inf))
    if best == distinct.size:
        return float(distinct[-1])
    middle = (distinct[best - 1] + distinct[best]) / 2
    # Between two neighbouring floats there is no half-way: the rule is >=, so the upper one serves.
    return float(middle if middle > distinct[best] else distinct[best - 1])


def at_threshold(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float]:
    """Return what follows from calling every pair with ``score >= threshold`` the same.

    Balanced accuracy is the mean of the recalls of both classes; MCC is Matthews' correlation
    coefficient, 0 where a row or a column of the table of counts is empty; precision and F1 are 0
    where nothing is called the same. Arguments and errors as for :func:`roc_auc`.
    """
    truth, values = _checked(labels, scores)
    called = values >= threshold
    tp = float(np.sum(called & truth))
    fp = float(np.sum(called & ~truth))
    fn = float(np.sum(~called & truth))
    tn = float(np.sum(~called & ~truth))
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return {
        "accuracy": (tp + tn) / truth.size,
        "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn),
        "mcc": (tp * tn - fp * fn) / product**0.5 if product else 0.0,
    }


def summarise(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any]:
    """Return every measure of a trial by name, JSON-ready.

    ``threshold`` is chosen on these same pairs (see :func:`best_threshold`), so the measures that
    depend on it are a little optimistic; ROC AUC and average precision do not depend on it.
    """
    truth, _ = _checked(labels, scores)
    threshold = best_threshold(labels, scores)
    return {
        "roc_auc": roc_auc(labels, scores),
        "average_precision": average_precision(labels, scores),
        "threshold": threshold,
        **at_threshold(labels, scores, threshold),
        "pairs": int(truth.size),
        "positives": int(truth.sum()),
    }


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    numbers = np.asarray(labels)
    values = np.asarray(scores, dtype=np.float64)
    if numbers.shape != values.shape or numbers.ndim != 1:
        raise ValueError(
            f"labels and scores must be two lists of one length, but have shapes {numbers.shape} "
            f"and {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, but {int((~np.isfinite(values)).sum())} are not")
    truth = numbers == 1
    if not (truth | (numbers == 0)).all():
        raise ValueError("labels must be 0 or 1")
    if truth.all() or not truth.any():
        raise ValueError(
            f"labels must be of both classes, but all {truth.size} are {int(truth.all())}"
        )
    return truth, values


def _by_threshold(truth: NDArray[np.bool_], values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the distinct scores from the highest down, and the counts at or above each.

    The counts are of positives and of all pairs.
    """
    distinct, inverse = np.unique(-values, return_inverse=True)
    hits: Floats = np.cumsum(np.bincount(inverse, weights=truth).astype(np.float64))
    predicted: Floats = np.cumsum(np.bincount(inverse).astype(np.float64))
    return np.negative(distinct), hits, predicted

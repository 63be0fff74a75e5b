"""How far the measures of labelled pairs may be trusted: intervals by bootstrap over groups.

Pairs that share a question are dependent, so what is drawn with replacement is not pairs but the
connected components of the question graph (:func:`objectives.splits.components`). A resample is a
vector of counts of components; every measure has a weighted form, so that no resample is ever
written out and 2,000 of them take a second.

The interval is the bootstrap standard error around the value, on the logit scale of the measure's
range, times a t-quantile. The degrees of freedom say how many groups really carry the measure: they
follow from the fourth moment of the groups' influence, so that a few large components widen the
interval. Percentile and BCa intervals are too narrow exactly there;
``benchmarks/interval_coverage.py`` measures all of them.

The threshold of the measures that need one is fixed beforehand (chosen on validation): the
intervals say nothing about the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from objectives.metrics import at_threshold, average_precision, roc_auc

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Share of samples of pairs whose interval holds the true value."""

RESAMPLES = 2000
"""Resamples by default; another seed then changes the width of an interval by 1 or 2 %."""

THRESHOLDED = ("accuracy", "balanced_accuracy", "f1", "precision", "recall", "mcc")
MEASURES = ("roc_auc", "average_precision", *THRESHOLDED)

MIN_GROUPS = 5
"""Fewest groups with either label; with fewer an interval is the whole range."""

FEW_GROUPS = 30
"""With fewer groups of either label an interval is wide, and is said to be so."""

_BLOCK = 400_000
"""Weights computed at a time: a few megabytes, which stay in the processor's cache."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval from ``low`` to ``high``, both included."""

    low: float
    high: float
    level: float = LEVEL


class Estimate(NamedTuple):
    """A value and its confidence interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One scored model on the pairs of one split.

    Attributes:
        labels: Shape (pairs,), 1 for the same meaning and 0 for not.
        scores: Shape (pairs,), higher for more similar; finite.
        clusters: Shape (pairs,), the number of the group each pair depends on the others of.
        threshold: A score at or above it calls a pair the same; not chosen on these pairs.
        seed: Of the resamples. Everything follows from it.
        resamples: How many.

    Raises:
        ValueError: Shapes differ, a score is not finite, one class is missing, or there are fewer
            than 100 resamples.
    """

    labels: ArrayLike
    scores: ArrayLike
    clusters: ArrayLike
    threshold: float
    seed: int = 0
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        """Check what the measures themselves do not, and keep everything as arrays."""
        roc_auc(self.labels, self.scores)
        labels = np.asarray(self.labels, dtype=np.int64)
        numbers = np.asarray(self.clusters)
        if numbers.shape != labels.shape:
            raise ValueError(
                f"clusters must have one number a pair, but have shape {numbers.shape} for "
                f"{labels.size} pairs; use objectives.splits.components"
            )
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, but are {self.resamples}")
        _, numbers = np.unique(numbers, return_inverse=True)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64))
        object.__setattr__(self, "clusters", numbers)

    def measures(self) -> dict[str, Estimate]:
        """Return every measure by name, with its interval.

        A measure at an end of its range (AUC 1.0) has no spread to resample: its interval then ends
        where what was seen would still happen once in forty, if every group were one trial
        (0.025 ** (1 / groups), the exact binomial bound). Constant scores make AUC 0.5 and MCC 0
        whatever the pairs are: those intervals are a point.
        """
        return {
            name: Estimate(value, self._interval(column, value))
            for column, (name, value) in enumerate(self._values.items())
        }

    @property
    def caution(self) -> str | None:
        """What people must be told about the intervals, or None."""
        fewest = min(self._groups)
        if fewest >= FEW_GROUPS:
            return None
        negatives, positives = self._groups
        seen = (
            f"the {np.size(self.labels):,} pairs form only {positives:,} groups of connected "
            f"questions with label 1 and {negatives:,} with label 0"
        )
        if fewest < MIN_GROUPS:
            return f"{seen}: fewer than {MIN_GROUPS}, so the intervals span the whole range"
        return f"{seen}: with fewer than {FEW_GROUPS} the intervals are wide and rough"

    @cached_property
    def _values(self) -> dict[str, float]:
        return {
            "roc_auc": roc_auc(self.labels, self.scores),
            "average_precision": average_precision(self.labels, self.scores),
            **at_threshold(self.labels, self.scores, self.threshold),
        }

    @cached_property
    def _groups(self) -> tuple[int, int]:
        """The numbers of groups that hold a pair with label 0, and with label 1."""
        labels, _, clusters = _arrays(self)
        zeros, ones = (np.unique(clusters[labels == label]).size for label in (0, 1))
        return zeros, ones

    @cached_property
    def _descending(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pairs from the highest score down, and where in them each distinct score ends."""
        _, scores, _ = _arrays(self)
        order = np.argsort(-scores, kind="stable")
        return order, np.flatnonzero(np.diff(-scores[order], append=np.inf))

    @cached_property
    def _tables(self) -> Floats:
        """True and false positives, false and true negatives, shape (groups, 4)."""
        labels, scores, clusters = _arrays(self)
        called = scores >= self.threshold
        cells = np.where(labels == 1, np.where(called, 0, 2), np.where(called, 1, 3))
        groups = int(clusters.max()) + 1
        flat = np.bincount(4 * clusters + cells, minlength=4 * groups)
        return flat.reshape(groups, 4).astype(np.float64)

    @cached_property
    def _resampled(self) -> Floats:
        """The measures of the resamples that hold both labels, shape (resamples, measures)."""
        return np.concatenate([weighted_measures(self, counts) for counts in _draws(self)])

    @cached_property
    def _influence(self) -> Floats:
        """How the measures change with the weight of each group, shape (groups, measures)."""
        labels, scores, clusters = _arrays(self)
        ranked = np.stack([_auc_influence(labels, scores), _ap_influence(labels, scores)], axis=1)
        by_group = np.zeros((int(clusters.max()) + 1, 2))
        np.add.at(by_group, clusters, ranked)
        tables = self._tables
        total = tables.sum(axis=0)
        step = 1e-5 * np.eye(4) * total.sum()
        rise = _of_tables(total + step) - _of_tables(np.maximum(total - step, 0))
        width = (total + step).sum(axis=1) - np.maximum(total - step, 0).sum(axis=1)
        return np.hstack([by_group, tables @ (rise / width[:, None])])

    def _interval(self, column: int, value: float) -> Interval:
        bottom = -1.0 if MEASURES[column] == "mcc" else 0.0
        if min(self._groups) < MIN_GROUPS:
            return Interval(bottom, 1.0)
        span = 1.0 - bottom
        # Of a resample that is at the end of the range the logit is infinite: the distance from
        # the end counts as at least a quarter of the sample's own.
        share = (value - bottom) / span
        if not 1e-12 < share < 1 - 1e-12:
            slack = span * _unseen(self._trials(MEASURES[column]))
            return Interval(max(bottom, value - slack), min(1.0, value + slack))
        shares = (self._resampled[:, column] - bottom) / span
        logits = _logit(np.clip(shares, share / 4, 1 - (1 - share) / 4))
        reach = _quantile(self._influence[:, column], min(self._groups), logit=True) * logits.std()
        low, high = _expit(_logit(share) + np.array([-reach, reach]))
        return Interval(bottom + span * float(low), bottom + span * float(high))

    def _trials(self, name: str) -> int:
        """Return how many groups had a chance to move a measure from the end of its range."""
        _, scores, clusters = _arrays(self)
        if name == "precision":
            return np.unique(clusters[scores >= self.threshold]).size
        if name == "accuracy":
            return int(clusters.max()) + 1
        return self._groups[1] if name == "recall" else min(self._groups)


def paired_differences(one: Evaluation, other: Evaluation) -> dict[str, Estimate]:
    """Return, for every measure, ``one`` minus ``other`` and the interval of the difference.

    Both are measured on the same resamples, so what makes a pair hard for both cancels. Two models
    with the same scores and threshold differ by 0, from 0 to 0; where other models happen not to
    differ in any resample, the interval is that of an event which none of the groups has shown.

    Raises:
        ValueError: The pairs, their order, the seed or the number of resamples are not the same.
    """
    for name in ("labels", "clusters", "seed", "resamples"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            raise ValueError(
                f"a paired difference needs the same pairs in the same order and the same "
                f"resamples, but the {name} of the two evaluations differ"
            )
    same = np.array_equal(one.scores, other.scores) and one.threshold == other.threshold
    few = min(one._groups)
    found = {}
    for column, name in enumerate(MEASURES):
        value = one._values[name] - other._values[name]
        span = 2.0 if name == "mcc" else 1.0
        if same:
            reach = 0.0
        elif few < MIN_GROUPS:
            reach = 2 * span
        elif (spread := np.std(one._resampled[:, column] - other._resampled[:, column])) > 1e-12:
            influence = one._influence[:, column] - other._influence[:, column]
            reach = _quantile(influence, few, logit=False) * float(spread)
        else:
            reach = span * _unseen(few)
        low, high = max(-span, value - reach), min(span, value + reach)
        found[name] = Estimate(value, Interval(low, high))
    return found


def weighted_measures(evaluation: Evaluation, counts: Floats) -> Floats:
    """Return the measures of an evaluation whose groups are repeated ``counts`` times.

    Args:
        evaluation: The scored pairs.
        counts: Shape (resamples, groups), groups in ascending order of their numbers; each row
            must leave a pair of either label.

    Returns:
        Shape (resamples, measures), in the order of ``MEASURES``.
    """
    labels, scores, clusters = _arrays(evaluation)
    # A threshold after each distinct score, from the highest down.
    order, ends = evaluation._descending
    weights = counts[:, clusters[order]]
    called = np.cumsum(weights, axis=1)
    weights *= labels[order]
    hits = np.cumsum(weights, axis=1, out=weights)
    if ends.size < scores.size:
        called, hits = called[:, ends], hits[:, ends]
    gains = np.diff(hits, axis=1, prepend=0.0)
    positives = hits[:, -1].copy()
    negatives = called[:, -1] - positives
    # A positive wins against the negatives below it, and by half against those that equal it.
    lost = ((called - hits) * gains).sum(axis=1)
    tied = (np.diff(called - hits, axis=1, prepend=0.0) * gains).sum(axis=1) / 2
    auc = 1 - (lost - tied) / (positives * negatives)
    hits *= gains
    # Nothing called has no hits either.
    precision = np.divide(hits, np.maximum(called, 1e-9), out=hits)
    ap = precision.sum(axis=1) / positives
    return np.column_stack([auc, ap, _of_tables(counts @ evaluation._tables)])


def _draws(evaluation: Evaluation) -> Iterator[Floats]:
    """Yield blocks of counts, shape (resamples of the block, groups).

    Counts with no pair of one label have no ROC AUC; they are left out, for every model alike.
    Where there are few enough groups for that to happen often, there is no interval anyway.
    """
    random = np.random.default_rng(evaluation.seed)
    labels, _, clusters = _arrays(evaluation)
    groups = int(clusters.max()) + 1
    pairs = np.stack([np.bincount(clusters[labels == c], minlength=groups) for c in (0, 1)], axis=1)
    rows = max(1, _BLOCK // labels.size)
    for start in range(0, evaluation.resamples, rows):
        size = min(rows, evaluation.resamples - start)
        drawn = random.integers(0, groups, (size, groups)) + groups * np.arange(size)[:, None]
        flat = np.bincount(drawn.ravel(), minlength=size * groups).astype(np.float64)
        counts: Floats = flat.reshape(size, groups)
        yield counts[(counts @ pairs).all(axis=1)]


def _arrays(evaluation: Evaluation) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Return labels, scores and clusters, the latter numbered from 0 without gaps."""
    return evaluation.labels, evaluation.scores, evaluation.clusters  # type: ignore[return-value]


def _of_tables(tables: Floats) -> Floats:
    """Return the thresholded measures of tables (rows, 4), shape (rows, 6).

    The same rules as :func:`objectives.metrics.at_threshold`: 0 where nothing is called the same,
    MCC 0 where a row or a column of the table is empty.
    """
    tp, fp, fn, tn = tables.T
    recall = tp / (tp + fn)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    root = np.sqrt(np.where(product > 0, product, 1))
    return np.column_stack(
        [
            (tp + tn) / tables.sum(axis=1),
            (recall + tn / (tn + fp)) / 2,
            2 * tp / (2 * tp + fp + fn),
            tp / np.where(tp + fp > 0, tp + fp, 1),
            recall,
            np.where(product > 0, (tp * tn - fp * fn) / root, 0),
        ]
    )


def _auc_influence(labels: NDArray[np.int64], scores: Floats) -> Floats:
    """Return the derivative of ROC AUC by the weight of each pair (DeLong's placement values)."""
    positives, negatives = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])

    def below(found: Floats) -> Floats:
        """Return the share of ``found`` below each score, ties half."""
        left, right = (np.searchsorted(found, scores, side) for side in ("left", "right"))
        return (left + right) / (2.0 * found.size)

    one = np.where(labels == 1, below(negatives), 1 - below(positives))
    auc = one[labels == 1].mean()
    found: Floats = (one - auc) / np.where(labels == 1, positives.size, negatives.size)
    return found


def _ap_influence(labels: NDArray[np.int64], scores: Floats) -> Floats:
    """Return the derivative of average precision by the weight of each pair.

    A pair adds to its own term if it is positive, and to hits and called of every threshold at or
    below its score.
    """
    _, place = np.unique(-scores, return_inverse=True)
    gains = np.bincount(place, weights=labels)
    hits, called = np.cumsum(gains), np.cumsum(np.bincount(place))
    precision = hits / called
    total = labels.sum()
    ap = (gains * precision).sum() / total
    more = np.cumsum((gains / called)[::-1])[::-1]
    fewer = np.cumsum((gains * precision / called)[::-1])[::-1]
    found: Floats = (labels * (precision[place] - ap + more[place]) - fewer[place]) / total
    return found


def _quantile(influence: Floats, few: int, logit: bool) -> float:
    """Return how many bootstrap standard errors an interval reaches to either side.

    The degrees of freedom are Satterthwaite's for the variance of independent groups, a sum of
    squares: they follow from its fourth moment. On the logit scale the part that the value itself
    foretells, the squared skewness, is allowed for already (all of it for a share of independent
    pairs). The root undoes that a bootstrap's variance is too small by (groups - 1) / groups, for
    the label with the ``few`` groups.
    """
    from scipy.stats import t

    variance = max(float((influence**2).sum()), 1e-99)
    concentration = float((influence**4).sum()) / variance**2 - 1 / influence.size
    if logit:
        concentration -= float((influence**3).sum()) ** 2 / variance**3
    freedom = min(2 / max(concentration, 1e-9), few - 1)
    return float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(few / (few - 1))


def _unseen(trials: int) -> float:
    """Return the largest probability of an event that is not seen in ``trials``, at the level."""
    return 1 - float(((1 - LEVEL) / 2) ** (1 / trials)) if trials else 1.0


def _logit(share: Floats | float) -> Floats:
    return np.asarray(np.log(share) - np.log1p(np.negative(share)))


def _expit(logit: Floats) -> Floats:
    return 1 / (1 + np.exp(-logit))

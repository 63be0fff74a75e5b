"""The measures, against counting by hand and what must not change them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.metrics import at_threshold, average_precision, best_threshold, roc_auc, summarise

SCORES = st.integers(-50, 50).map(lambda number: number / 10)


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    """Draw labels of both classes, and scores with ties."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=30))]
    scores = draw(st.lists(SCORES, min_size=len(labels), max_size=len(labels)))
    return labels, scores


def counted_auc(labels: list[int], scores: list[float]) -> float:
    ones = [score for label, score in zip(labels, scores, strict=True) if label]
    zeros = [score for label, score in zip(labels, scores, strict=True) if not label]
    won = sum((one > zero) + (one == zero) / 2 for one, zero in itertools.product(ones, zeros))
    return won / (len(ones) * len(zeros))


@given(scored())
def test_roc_auc_is_the_share_of_ordered_pairs(data: tuple[list[int], list[float]]) -> None:
    labels, scores = data
    assert roc_auc(labels, scores) == pytest.approx(counted_auc(labels, scores))


@given(scored())
def test_roc_auc_ignores_monotone_changes_of_the_scores(
    data: tuple[list[int], list[float]],
) -> None:
    labels, scores = data
    changed = [3 * score**3 + score - 7 for score in scores]
    assert roc_auc(labels, changed) == pytest.approx(roc_auc(labels, scores))
    assert average_precision(labels, changed) == pytest.approx(average_precision(labels, scores))


@given(scored())
def test_swapping_the_classes_or_the_order_mirrors_roc_auc(
    data: tuple[list[int], list[float]],
) -> None:
    labels, scores = data
    value = roc_auc(labels, scores)
    assert roc_auc([1 - label for label in labels], scores) == pytest.approx(1 - value)
    assert roc_auc(labels, [-score for score in scores]) == pytest.approx(1 - value)


@given(scored())
def test_no_threshold_is_more_accurate_than_the_chosen_one(
    data: tuple[list[int], list[float]],
) -> None:
    labels, scores = data
    chosen = at_threshold(labels, scores, best_threshold(labels, scores))["accuracy"]
    tried = [*scores, max(scores) + 1]
    assert chosen == pytest.approx(
        max(at_threshold(labels, scores, threshold)["accuracy"] for threshold in tried)
    )


def test_average_precision_by_hand() -> None:
    # Ranks of the positives: 1, 3 and 4 of 5: (1/1 + 2/3 + 3/4) / 3.
    found = average_precision([1, 0, 1, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.5])
    assert found == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_average_precision_takes_ties_as_one_threshold() -> None:
    assert average_precision([1, 0], [0.5, 0.5]) == average_precision([0, 1], [0.5, 0.5]) == 0.5


def test_measures_at_a_threshold_by_hand() -> None:
    # tp 2, fp 1, fn 1, tn 2
    found = at_threshold([1, 1, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.3, 0.2, 0.1], 0.5)
    assert found == pytest.approx(
        {
            "accuracy": 4 / 6,
            "balanced_accuracy": 2 / 3,
            "f1": 2 / 3,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "mcc": (2 * 2 - 1 * 1) / 9,
        }
    )


def test_measures_where_nothing_is_called_the_same() -> None:
    found = at_threshold([1, 0], [0.1, 0.2], 0.5)
    assert (found["precision"], found["f1"], found["mcc"]) == (0, 0, 0)
    assert found["balanced_accuracy"] == 0.5


def test_the_threshold_lies_half_way() -> None:
    assert best_threshold([1, 1, 0], [0.9, 0.8, 0.2]) == pytest.approx(0.5)


def test_summary_is_plain_json_numbers() -> None:
    found = summarise(np.array([1, 0, 1]), np.array([0.9, 0.2, 0.4], dtype=np.float32))
    assert found["roc_auc"] == 1
    assert (found["pairs"], found["positives"]) == (3, 2)
    assert {type(value) for value in found.values()} == {float, int}


@pytest.mark.parametrize(
    ("labels", "scores", "rule"),
    [
        ([1, 1], [0.1, 0.2], "both classes, but all 2 are 1"),
        ([1, 0], [0.1, float("nan")], "must be finite, but 1 are not"),
        ([1, 0], [0.1], "two lists of one length"),
        ([1, 2], [0.1, 0.2], "must be 0 or 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels: Any, scores: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        roc_auc(labels, scores)

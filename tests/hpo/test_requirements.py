"""Requirements: what is read, and that a constraint's sign is the comparison's answer."""

from __future__ import annotations

import json
import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.requirements import (
    OPERATORS,
    MissingMetricError,
    Requirement,
    parse_requirements,
    violations,
)

bounds = st.floats(allow_nan=False, allow_infinity=False)
comparisons = st.sampled_from(sorted(OPERATORS))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("recall>=0.5", "recall>=0.5"),
        ("  recall >= .50 ", "recall>=0.5"),
        ("loss<1", "loss<1"),
        ("loss < -1e-3", "loss<-0.001"),
        ("validation ROC AUC > 0.9", "validation ROC AUC>0.9"),
        ("recall@10<=+2.", "recall@10<=2"),
        ("drift>=-0", "drift>=0"),
    ],
)
def test_a_requirement_is_read_and_written_in_one_form(text: str, canonical: str) -> None:
    requirement = Requirement.parse(text)
    assert str(requirement) == canonical
    assert Requirement.parse(canonical) == requirement


@pytest.mark.parametrize(
    "text",
    [
        "",
        "recall",
        "recall>=",
        ">=0.5",
        "recall=>0.5",
        "recall==1",
        "recall=1",
        "recall!=1",
        "recall>>1",
        "0.5<recall",
        "0.5<0.6",
        "0.3<=recall<=0.5",
        "recall>=x",
        "recall>=nan",
        "recall>=inf",
        "recall>=1e999",
        "recall>=50%",
        "recall>=1_0",
        "recall>=0,5",
    ],
)
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match=r'such as "recall>=0\.5"') as error:
        Requirement.parse(text)
    assert repr(text) in str(error.value)


@given(bounds, comparisons)
def test_the_canonical_form_loses_no_digit(bound: float, comparison: str) -> None:
    requirement = Requirement("m", comparison, bound)
    assert Requirement.parse(str(requirement)) == requirement


@given(st.floats(allow_nan=False), comparisons, bounds)
def test_the_sign_is_the_comparison(metric: float, comparison: str, bound: float) -> None:
    neighbours = [math.nextafter(bound, -math.inf), bound, math.nextafter(bound, math.inf)]
    for number in (metric, *neighbours):
        violation = Requirement("m", comparison, bound).violation(number)
        assert (violation <= 0) is OPERATORS[comparison](number, bound)
        assert math.isfinite(violation)
        assert json.loads(json.dumps(violation)) == violation


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), comparisons, bounds)
def test_further_off_is_never_a_smaller_violation(
    one: float, other: float, comparison: str, bound: float
) -> None:
    requirement = Requirement("m", comparison, bound)
    low, high = sorted((one, other))
    if comparison.startswith(">"):
        assert requirement.violation(low) >= requirement.violation(high)
    else:
        assert requirement.violation(low) <= requirement.violation(high)


@pytest.mark.parametrize("comparison", OPERATORS)
def test_what_is_not_a_number_meets_nothing(comparison: str) -> None:
    violation = Requirement("m", comparison, 0.0).violation(math.nan)
    assert violation > 0
    assert math.isfinite(violation)


@pytest.mark.parametrize("comparison", OPERATORS)
@pytest.mark.parametrize("metric", [0.5, math.nextafter(0.5, 0), math.nextafter(0.5, 1), math.inf])
def test_optuna_agrees_on_what_is_feasible(comparison: str, metric: float) -> None:
    requirement = Requirement("m", comparison, 0.5)
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    study.add_trial(
        optuna.create_trial(
            value=0.0, constraints=violations([requirement], {"m": metric}, 0.0, None)
        )
    )
    if OPERATORS[comparison](metric, 0.5):
        assert study.best_trial.number == 0
    else:
        with pytest.raises(ValueError, match="feasible"):
            _ = study.best_trial


def test_the_value_itself_can_be_required() -> None:
    wanted = parse_requirements(["value>=0.5", "validation ROC AUC>=0.6", "recall>=0.7"])
    metrics = {"recall": 1}
    found = violations(wanted, metrics, 0.75, "validation ROC AUC")
    assert found == {
        "value>=0.5": -0.25,
        "validation ROC AUC>=0.6": pytest.approx(-0.15),
        "recall>=0.7": pytest.approx(-0.3),
    }


def test_a_metric_of_the_trial_comes_before_a_name_for_the_value() -> None:
    found = violations(parse_requirements(["loss<1"]), {"loss": 0.5}, 2.0, "loss")
    assert found == {"loss<1": -0.5}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, "no metric 'recall'; it has 'value'"),
        ({"f1": 0.5}, "no metric 'recall'; it has 'value', 'f1'"),
        ({"recall": True}, "'recall' is True, which is no number"),
        ({"recall": "0.9"}, "'recall' is '0.9', which is no number"),
        ({"recall": None}, "'recall' is None, which is no number"),
        ("not even a table", "no metric 'recall'"),
    ],
)
def test_a_missing_metric_is_named_with_those_there_are(metrics: object, message: str) -> None:
    with pytest.raises(MissingMetricError, match=message):
        violations(parse_requirements(["recall>=0.5"]), metrics, 1.0, None)


def test_several_values_have_no_value_to_require() -> None:
    with pytest.raises(MissingMetricError, match="none at all"):
        violations(parse_requirements(["value>=0.5"]), {}, None, None)


def test_an_integer_beyond_every_float_is_compared_all_the_same() -> None:
    [met] = violations(parse_requirements(["n>=1"]), {"n": 10**400}, None, None).values()
    [broken] = violations(parse_requirements(["n>=1"]), {"n": -(10**400)}, None, None).values()
    assert met <= 0 < broken


def test_the_same_requirement_counts_once() -> None:
    found = parse_requirements(["recall>=0.5", "f1>0.1", " recall >= .5"])
    assert [str(each) for each in found] == ["recall>=0.5", "f1>0.1"]


@pytest.mark.parametrize(
    ("texts", "possible"),
    [
        (["recall>=0.5", "recall<=0.3"], False),
        (["recall<0.5", "recall>0.5"], False),
        (["recall>=0.5", "recall<0.5"], False),
        (["recall>=0.5", "recall<=0.5"], True),
        (["recall>0.3", "recall<0.5"], True),
        (["recall>=0.3", "recall>=0.5"], True),
        (["recall>=0.5", "f1<=0.3"], True),
    ],
)
def test_what_no_trial_can_meet_is_refused(texts: list[str], possible: bool) -> None:
    if possible:
        assert len(parse_requirements(texts)) == 2
    else:
        with pytest.raises(ValueError, match="no trial can meet both"):
            parse_requirements(texts)

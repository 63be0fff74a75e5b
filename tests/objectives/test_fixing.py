"""One point of the space: what a trial has is complete, and nothing less or more is taken."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.fixing import fix_point
from objectives.space import PARAMETERS, SpaceError, draw, make_space

WIDTHS = {"wide": 768, "narrow": 384}

HEAD: dict[str, Any] = {
    "base_model": "narrow",
    "tuning": "head",
    "head_num_samples": 1000,
    "dimension": 128,
    "loss": "CoSENT",
    "head_learning_rate": 1e-3,
    "head_epochs": 5,
    "batch_size": 32,
    "warmup": 0.1,
}


def drawn(seed: int) -> tuple[dict[str, Any], Any]:
    """Return the parameters of a random trial, and its configuration."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    configuration = draw(trial, make_space({}), list(WIDTHS), WIDTHS)
    return trial.params, configuration


@given(st.integers(0, 2**31 - 1), st.data())
@settings(max_examples=60, deadline=None)
def test_a_trials_parameters_are_a_point_and_none_may_be_missing(
    seed: int, data: st.DataObject
) -> None:
    params, configuration = drawn(seed)
    base_model, values = fix_point(params, WIDTHS.__getitem__)
    trial = optuna.create_study().ask()
    again = draw(trial, make_space(values), [base_model], {base_model: WIDTHS[base_model]})
    assert again == configuration
    left_out = data.draw(st.sampled_from(sorted(params)))
    fewer = {name: value for name, value in params.items() if name != left_out}
    with pytest.raises(SpaceError, match=rf"missing: {left_out.split('_up_to')[0]} \("):
        fix_point(fewer, WIDTHS.__getitem__)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "Hinge"}, "loss cannot be 'Hinge'; it takes one of OnlineContrastive, "),
        ({"loss": ["CoSENT", "AnglE"]}, "loss cannot be"),
        ({"warmup": 2}, "warmup cannot be 2; it takes numbers from 0 to 1"),
        ({"batch_size": True}, "batch_size cannot be True"),
        ({"batch_size": None}, "batch_size cannot be None"),
        ({"batch_size": {"low": 16, "high": 32}}, "batch_size cannot be"),
        ({"base_model": 3}, "base_model cannot be 3"),
        ({"lr": 1e-3}, "there is no parameter 'lr'; there are base_model, tuning"),
        ({"dropout": 0.1}, "dropout would have no effect here (tuning=head"),
        ({"dimension": 512}, "no base model has more than 384"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError) as refused:
        fix_point({**HEAD, **changes}, WIDTHS.__getitem__)
    assert words in str(refused.value)


def test_all_that_is_missing_is_named_at_once_with_what_it_takes() -> None:
    with pytest.raises(SpaceError) as refused:
        fix_point({"tuning": "head", "dimension": 64}, WIDTHS.__getitem__)
    said = str(refused.value)
    for name in HEAD.keys() - {"tuning", "dimension"}:
        assert f"{name} (" in said
    assert "batch_size (whole numbers from 2 up)" in said
    assert "projection" not in said
    assert set(PARAMETERS) > HEAD.keys() - {"base_model"}

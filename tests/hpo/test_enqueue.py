"""What may be enqueued: only what a trial of the study could have drawn."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from hpo.enqueue import enqueue, parse_params
from hpo.errors import InputError
from tests.hpo.test_queries import trial, waiting


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate=1", "has no parameter 'rate' so far; it has base_model, dimension, epochs"),
        ("learning_rate=5", "learning_rate cannot be 5; it takes a number from 1e-05 to 0.01"),
        ("learning_rate=fast", "learning_rate cannot be 'fast'"),
        ("learning_rate=NaN", "learning_rate cannot be nan"),
        ("learning_rate=true", "learning_rate cannot be True"),
        ("learning_rate=" + "9" * 400, "learning_rate cannot be 9999"),
        ("epochs=1.5", "epochs cannot be 1.5; it takes a whole number from 1 to 4"),
        ("epochs=0", "epochs cannot be 0"),
        ("dimension=100", "dimension cannot be 100; it takes one of 64, 128, 256"),
        ('{"dimension": "128"}', "dimension cannot be '128'"),
        ("base_model=tiny", "it takes one of 'mini', 'large, multilingual'"),
        ("epochs", "write NAME=VALUE"),
        ("=3", "write NAME=VALUE"),
        ("{epochs: 3}", "is not valid JSON"),
        ("{}", "give at least one parameter"),
    ],
)
def test_what_cannot_be_right_is_refused(text: str, message: str) -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(trial(0.5))
    with pytest.raises(InputError) as caught:
        enqueue(study, parse_params([text]))
    assert message in str(caught.value)
    assert waiting(study) == []


def test_a_value_is_read_as_the_parameter_needs_it() -> None:
    study = optuna.create_study()
    odd = CategoricalDistribution(("1", 1, 2.5, None, "true", False))
    ranges = {"odd": odd, "x": FloatDistribution(0, 1), "n": IntDistribution(0, 8, step=4)}
    study.add_trial(
        create_trial(value=1, params={"odd": 1, "x": 0.5, "n": 4}, distributions=ranges)
    )
    for text, value in {
        "odd=1": 1,
        'odd="1"': "1",
        "odd=true": "true",
        "odd=false": False,
        "odd=null": None,
        "odd=2.5": 2.5,
        "x=1": 1.0,
        "n=8": 8,
        "n=4.0": 4,
    }.items():
        (found,) = enqueue(study, parse_params([text])).params.values()
        assert (found, type(found)) == (value, type(value)), text
    with pytest.raises(InputError, match="odd cannot be 0;"):
        enqueue(study, parse_params(["odd=0"]))  # which False equals
    with pytest.raises(InputError, match="from 0 to 8 in steps of 4"):
        enqueue(study, parse_params(["n=3"]))


def test_without_trials_it_says_that_nothing_was_checked() -> None:
    study = optuna.create_study()
    queued = enqueue(study, parse_params(["anything=goes"]))
    assert (queued.number, waiting(study)) == (0, [{"anything": "goes"}])
    assert "no trial yet" in queued.unchecked


def built_in() -> optuna.Study:
    """Return a study of the built-in objective without a trial."""
    options = {
        "data": "demo",
        "models": ["all-MiniLM-L6-v2"],
        "resolved": {"train_pairs": 7000, "dimensions": {"all-MiniLM-L6-v2": 384}},
    }
    study = optuna.create_study()
    study.set_user_attr(
        "hpo",
        {"objective": "objectives:FineTune", "options": options, "seed": 0, "directory": "/x"},
    )
    return study


def test_the_built_in_objective_knows_its_parameters_before_the_first_trial() -> None:
    study = built_in()
    queued = enqueue(study, parse_params(["learning_rate=3e-5", "tuning=frozen"]))
    assert (queued.params, queued.unchecked) == ({"learning_rate": 3e-5, "tuning": "frozen"}, "")
    with pytest.raises(InputError, match="has no parameter 'rate' so far; it has base_model"):
        enqueue(study, parse_params(["rate=3e-5"]))
    with pytest.raises(InputError, match="learning_rate cannot be 5"):
        enqueue(study, parse_params(["learning_rate=5"]))
    with pytest.raises(InputError, match="a trial with tuning=head has no dropout"):
        enqueue(study, parse_params(["tuning=head", "dropout=0.1"]))
    assert len(study.trials) == 1

"""The search space: what people may change, what trials draw, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.space import (
    LOSSES,
    PARAMETERS,
    Choices,
    Configuration,
    Range,
    Space,
    SpaceError,
    bounds,
    describe,
    dimensions_for,
    draw,
    fit_to_data,
    make_space,
    parse_override,
)

MODELS = {"small": 32, "large": 64}


def ask(space: Space, count: int = 1, models: dict[str, int] = MODELS) -> list[optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(count)]
    for trial in trials:
        draw(trial, space, list(models), models)
    return trials


def drawn(space: Space, **params: Any) -> Configuration:
    fixed = {"base_model": "small", "num_samples": 1500, "loss": "CoSENT", "batch_size": 16}
    fixed |= {"learning_rate": 1e-4, "head_learning_rate": 1e-3, "epochs": 1, "head_epochs": 5}
    fixed |= {"head_num_samples": 4000}
    fixed |= {"warmup": 0.1, "dropout": 0.1, "projection": "dense", "frozen_share": 0.5}
    fixed |= {"tuning": "full", "dimension_up_to_32": 32, **params}
    return draw(optuna.trial.FixedTrial(fixed), space, list(MODELS), MODELS)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("learning_rate=1e-5..1e-3", Range(1e-5, 1e-3, log=True)),
        ("learning_rate=2e-5", Choices((2e-5,))),
        ("loss=OnlineContrastive,CoSENT", Choices(("OnlineContrastive", "CoSENT"))),
        ("dimension=256", Choices((256,))),
        ("num_samples = 100 .. 800", Range(100, 800, whole=True)),
        ("dropout=0,0.2", Choices((0.0, 0.2))),
    ],
)
def test_overrides_from_the_command_line(text: str, domain: Any) -> None:
    name, given_value = parse_override(text)
    space = make_space({name: given_value})
    assert space.domains[name] == domain
    assert space.given == {name}


@pytest.mark.parametrize(
    ("given_value", "domain"),
    [
        ({"low": 1e-5, "high": 1e-3}, Range(1e-5, 1e-3, log=True)),
        ({"low": 1e-5, "high": 1e-3, "log": False}, Range(1e-5, 1e-3)),
        ({"low": 1e-4, "high": 3e-4, "step": 1e-4}, Range(1e-4, 3e-4, step=1e-4)),
        ([1e-5, 1e-4], Choices((1e-5, 1e-4))),
        (1e-4, Choices((1e-4,))),
    ],
)
def test_overrides_from_a_file(given_value: Any, domain: Any) -> None:
    assert make_space({"learning_rate": given_value}).domains["learning_rate"] == domain


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("lr", 1e-4, "no parameter 'lr'; there are base_model, tuning"),
        ("loss", "Triplet", "no loss 'Triplet'; it is one or several of OnlineContrastive, Contr"),
        ("loss", {"low": 1, "high": 2}, "loss cannot be a range"),
        ("learning_rate", 0, "learning_rate cannot be 0; it takes numbers above 0 to 1"),
        ("learning_rate", -1e-4, "cannot be -0.0001"),
        ("learning_rate", "fast", "cannot be 'fast'"),
        ("learning_rate", True, "cannot be True"),
        ("learning_rate", float("nan"), "cannot be nan"),
        ("learning_rate", "1e-3..1e-5", "low <= high, but got low=0.001, high=1e-05"),
        ("learning_rate", {"low": 1e-5}, "must be a table of low, high"),
        ("learning_rate", {"low": 1e-5, "high": 1e-3, "lo": 1}, "must be a table of low, high"),
        ("learning_rate", {"low": 1e-5, "high": 1e-3, "step": 0}, "step must be a number above 0"),
        ("learning_rate", {"low": 1e-5, "high": 1e-3, "log": "yes"}, "log must be true or false"),
        (
            "learning_rate",
            {"low": 1e-5, "high": 1e-3, "log": True, "step": 1e-5},
            "log goes with a low above 0 and without a step",
        ),
        ("num_samples", 0, "whole numbers from 1 up"),
        ("num_samples", -5, "cannot be -5"),
        ("num_samples", 10.5, "cannot be 10.5"),
        ("num_samples", {"low": 1, "high": 9, "step": 0.5}, "step must be a whole number"),
        ("batch_size", [], "empty list"),
        ("batch_size", [16, 16], "names a choice twice"),
        ("dropout", 1.0, "from 0 to 0.9"),
        ("warmup", 1.5, "from 0 to 1"),
    ],
)
def test_a_change_that_cannot_be_names_value_and_rule(name: str, value: Any, rule: str) -> None:
    with pytest.raises(SpaceError, match=f"^space: .*{rule}".replace("(", r"\(")):
        make_space({name: value})


@pytest.mark.parametrize("text", ["learning_rate", "=3", "loss="])
def test_an_override_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(SpaceError, match=r"expected name=value.*but got"):
        parse_override(text)


def test_more_pairs_than_there_are_is_refused_only_if_a_person_asked() -> None:
    with pytest.raises(SpaceError, match="up to 5,000 pairs, but the training split has 900"):
        fit_to_data(make_space({"num_samples": [100, 5000]}), 900)
    with pytest.raises(SpaceError, match="up to 5,000 pairs"):
        fit_to_data(make_space({"num_samples": "100..5000"}), 900)
    assert fit_to_data(make_space({"num_samples": 900}), 900).domains["num_samples"] == Choices(
        (900,)
    )


@pytest.mark.parametrize(
    ("train_pairs", "choices"),
    [
        (300, (300,)),
        (1500, (1500,)),
        (7000, (1500,)),
        (19_502, (1500, 3000)),
        (1_000_000, (1500, 3000, 6000)),
    ],
)
def test_default_samples_fit_the_data(train_pairs: int, choices: tuple[int, ...]) -> None:
    space = fit_to_data(make_space({}), train_pairs)
    assert space.domains["num_samples"] == Choices(choices)
    assert max(bounds(space.domains["head_num_samples"])) <= train_pairs


def test_dimensions_never_exceed_the_model() -> None:
    found = dimensions_for(make_space({}), {"a": 384, "b": 768})
    assert found == {
        "a": ("dimension_up_to_384", Choices((64, 128, 256, 384))),
        "b": ("dimension", Choices((64, 128, 256, 384, 512, 768))),
    }
    assert dimensions_for(make_space({}), {"a": 312})["a"] == (
        "dimension",
        Choices((64, 128, 256, 312)),
    )
    assert dimensions_for(make_space({"dimension": 64}), {"a": 384, "b": 768}) == {
        "a": ("dimension", Choices((64,))),
        "b": ("dimension", Choices((64,))),
    }


@pytest.mark.parametrize(
    ("given_value", "rule"),
    [
        ([64, 1024], "no base model has more than 768"),
        ("64..1024", "no base model has more than 768"),
        (768, "the embeddings of a have 384 dimensions"),
    ],
)
def test_a_dimension_beyond_the_models_is_refused(given_value: Any, rule: str) -> None:
    with pytest.raises(SpaceError, match=rule):
        dimensions_for(make_space({"dimension": given_value}), {"a": 384, "b": 768})


def test_parameters_depend_on_what_was_drawn_before() -> None:
    space = make_space({"dimension": [8, 32, 64]})
    full = drawn(space)
    assert (full.projection, full.frozen_share, full.learning_rate) == (None, None, 1e-4)
    assert drawn(space, dimension_up_to_32=8).projection == "dense"
    assert drawn(space, tuning="frozen").frozen_share == 0.5
    head = drawn(space, tuning="head", dimension_up_to_32=8)
    assert (head.projection, head.dropout, head.learning_rate) == (None, None, 1e-3)
    assert (head.epochs, head.num_samples) == (5, 4000)


def test_a_fixed_value_is_recorded_as_a_parameter() -> None:
    space = make_space({"loss": "CoSENT", "learning_rate": 1e-4, "tuning": "full"})
    (trial,) = ask(space)
    assert trial.params["loss"] == "CoSENT"
    assert trial.params["learning_rate"] == 1e-4


def test_no_distribution_changes_under_one_name() -> None:
    seen: dict[str, str] = {}
    for trial in ask(make_space({}), count=200, models={"a": 384, "b": 768, "c": 96}):
        for name, distribution in trial.distributions.items():
            text = optuna.distributions.distribution_to_json(distribution)
            assert seen.setdefault(name, text) == text
    assert set(PARAMETERS) <= set(seen)


DOMAINS = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.floats(1e-6, 1e-1).map(lambda x: {"low": x, "high": x * 3}),
        "num_samples": st.lists(st.integers(1, 5000), min_size=1, max_size=4, unique=True),
        "loss": st.lists(st.sampled_from(LOSSES), min_size=1, unique=True),
        "epochs": st.integers(1, 9),
    },
)


@settings(max_examples=30, deadline=None)
@given(DOMAINS)
def test_overrides_survive_json_and_bound_what_is_drawn(overrides: dict[str, Any]) -> None:
    space = make_space(json.loads(json.dumps(overrides)))
    assert space == make_space(overrides)
    for trial in ask(space, count=3):
        for name, value in trial.params.items():
            domain = space.domains.get(name)
            if isinstance(domain, Choices) and name in overrides:
                assert value in domain.values
            elif isinstance(domain, Range):
                assert domain.low <= value <= domain.high


def test_the_description_names_every_parameter() -> None:
    lines = describe(make_space({"loss": "AnglE"}), ["a", "b@layers=3"], {})
    assert lines[0].split(maxsplit=1) == ["base_model", "a, b@layers=3"]
    assert [line.split()[0] for line in lines[1:]] == list(PARAMETERS)
    assert any("3e-05 .. 0.0003 (log)" in line for line in lines)
    known = describe(make_space({}), ["a", "b"], {"a": 384, "b": 64})
    assert [line.split()[:5] for line in known if line.startswith("dimension")] == [
        ["dimension", "64,", "128,", "256,", "384"],
        ["dimension_up_to_64", "64", "length", "of", "the"],
    ]

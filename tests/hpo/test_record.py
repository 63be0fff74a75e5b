"""What a study remembers of the run that made it, and what a later run may change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpo
from hpo.errors import InputError
from hpo.record import StudyRecord, differences
from tests.hpo.sample_objectives import Offers


def record(**changes: Any) -> StudyRecord:
    fields: dict[str, Any] = {
        "objective": "m:Space",
        "options": {"data": "a.csv", "space": {"rate": {"low": 1e-5, "high": 1e-3}}},
        "seed": 3,
        "directory": "/runs/s",
        "require": ("recall>=0.5",),
        "sampler": "tpe",
        "pruner": "median",
    }
    return StudyRecord(**{**fields, **changes})


@pytest.fixture
def study() -> optuna.Study:
    """A study that was made with ``record()``."""
    made = optuna.create_study(study_name="s")
    assert record().settle(made) == []
    return made


def test_the_first_run_is_remembered(study: optuna.Study) -> None:
    assert StudyRecord.of(study) == record()
    assert StudyRecord.find(study._storage, "s") == record()
    assert StudyRecord.find(study._storage, "another") is None
    assert StudyRecord.find(optuna.create_study(study_name="plain")._storage, "plain") is None


def test_the_same_settings_are_nothing_to_say(study: optuna.Study) -> None:
    assert record().settle(study) == []
    assert StudyRecord.of(study) == record()


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"sampler": "random"}, "the sampler was tpe, and is random from here on"),
        ({"pruner": "asha"}, "the pruner was median, and is asha from here on"),
        ({"seed": 4}, "the study keeps its seed 3 (--seed 4 is for new ones)"),
        ({"directory": "/other/s"}, "the study moves from /runs/s to /other/s"),
    ],
)
def test_a_difference_that_does_no_harm_is_said_once(
    study: optuna.Study, change: dict[str, Any], note: str
) -> None:
    changed = record(**change)
    assert changed.settle(study) == [note]
    kept = StudyRecord.of(study)
    assert kept == changed.model_copy(update={"seed": 3})
    assert changed.settle(study) == ([note] if "seed" in change else [])


def test_a_study_from_before_samplers_were_noted_says_nothing_of_them() -> None:
    study = optuna.create_study(study_name="s")
    record(sampler=None, pruner=None).settle(study)
    assert record().settle(study) == []
    assert StudyRecord.of(study).sampler == "tpe"


@pytest.mark.parametrize(
    ("options", "differences"),
    [
        (
            {"data": "a.csv", "space": {"rate": {"low": 1e-4, "high": 1e-3}}},
            "space.rate.low was 1e-05, now 0.0001",
        ),
        (
            {"data": "b.csv", "space": {"rate": {"low": 1e-5, "high": 1e-3}, "dim": [1, 2]}},
            "data was 'a.csv', now 'b.csv'; space.dim was None, now [1, 2]",
        ),
        (
            {"data": "a.csv", "space": {"rate": 0.5}},
            "space.rate was {'low': 1e-05, 'high': 0.001}, now 0.5",
        ),
        (
            None,
            "data was 'a.csv', now None; "
            "space was {'rate': {'low': 1e-05, 'high': 0.001}}, now None",
        ),
    ],
)
def test_another_space_is_refused_with_the_differences_and_the_way_out(
    study: optuna.Study, options: dict[str, Any] | None, differences: str
) -> None:
    with pytest.raises(InputError) as caught:
        record(options=options).settle(study)
    message = str(caught.value)
    assert f"study 's' was made with other settings: {differences}. " in message
    assert "--study NEW; with --from s" in message
    assert StudyRecord.of(study) == record()


def test_another_objective_is_refused(study: optuna.Study) -> None:
    with pytest.raises(InputError, match=r"the objective m:Space, not m:Other.*--study NEW"):
        record(objective="m:Other").settle(study)
    assert StudyRecord.of(study) == record()


def test_requirements_can_change_until_a_trial_has_been_judged(study: optuna.Study) -> None:
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.tell(study.ask(), state=optuna.trial.TrialState.PRUNED)
    study.ask()
    assert record(require=()).settle(study) == []
    assert record(require=("f1>0.5",)).settle(study) == []
    assert StudyRecord.of(study).require == ("f1>0.5",)
    study.tell(study.ask(), 0.5)
    with pytest.raises(InputError, match=r"requires f1>0\.5, not nothing \(--require\).*--from s"):
        record(require=()).settle(study)
    assert StudyRecord.of(study).require == ("f1>0.5",)
    assert record(require=("f1>0.5",)).settle(study) == []


options = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from("pqr"), options, max_size=3)


@given(old=objects, new=objects)
def test_there_are_differences_exactly_if_something_differs(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    def bare(value: Any) -> Any:
        """Leave out what is None: an option that is not given is None."""
        if isinstance(value, dict):
            return {name: bare(each) for name, each in value.items() if each is not None}
        return value

    assert differences(old, old) == []
    if bare(old) == bare(new):
        assert differences(old, new) == differences(new, old) == []
    else:
        assert len(differences(old, new)) == len(differences(new, old)) > 0


# Through a whole run.


def test_what_changed_is_in_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def go(**more: Any) -> str:
        hpo.optimize(Offers(bound=0.5), trials=1, study="s", executor="inline", **more)
        return capsys.readouterr().out

    assert "from here on" not in go()
    said = go(sampler="random", pruner="none", out="elsewhere")
    assert "the sampler was tpe, and is random from here on" in said
    assert "the pruner was median, and is none from here on" in said
    assert f"the study moves from {tmp_path}/runs/s to {tmp_path}/elsewhere/s" in said


def test_a_plain_function_whose_space_changed_is_refused_as_it_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def go(trials: int, high: int, comment: str = "") -> optuna.Study:
        (tmp_path / "ranged.py").write_text(
            f"def objective(trial):{comment}\n    return trial.suggest_float('x', 0, {high})\n"
        )
        sys.modules.pop("ranged", None)
        return hpo.optimize("ranged:objective", trials=trials, study="s", executor="inline")

    go(2, 1)
    assert "has changed" not in capsys.readouterr().out
    with pytest.raises(InputError, match=r"'x' was drawn from 0\.\.1, now from 0\.\.200.*--from s"):
        go(4, 200)
    states = [trial.state.name for trial in go(4, 1).trials]
    assert states.count("COMPLETE") == 4
    assert "RUNNING" not in states
    go(5, 1, comment="  # the same space, said otherwise")
    assert "the objective's file has changed since the study was made" in capsys.readouterr().out


def test_a_refused_run_leaves_no_trial_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hpo.optimize(Offers(bound=0.5), trials=1, study="s", executor="inline", progress=False)
    with pytest.raises(InputError, match=r"bound was 0\.5, now 0\.75.*--from s"):
        hpo.optimize(Offers(bound=0.75), trials=2, study="s", executor="inline", progress=False)
    assert len(optuna.load_study(study_name="s", storage="sqlite:///hpo.db").trials) == 1

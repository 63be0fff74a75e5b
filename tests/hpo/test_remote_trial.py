"""A RemoteTrial does what Optuna's own Trial does, at the other end of a wire."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import BaseTrial, Trial

from hpo.attempts import LiveTrial
from hpo.protocol import AnyEvent, AnyReply, Done, Report, Stop, Suggest, Verdict
from hpo.remote_trial import AttemptStopped, RemoteTrial
from tests.hpo.support import Recorder, make_task


@pytest.fixture
def live() -> LiveTrial:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return LiveTrial.of(study.ask())


def connected(live: LiveTrial, directory: Path) -> tuple[RemoteTrial, Recorder]:
    """Return a remote trial whose suggestions the real trial answers."""

    def answer(event: AnyEvent) -> AnyReply | None:
        return live.suggest(event) if isinstance(event, Suggest) else None

    recorder = Recorder(answer)
    return RemoteTrial(make_task(directory), recorder), recorder


def test_it_is_a_full_base_trial() -> None:
    assert issubclass(RemoteTrial, BaseTrial)
    public = {name for name in vars(Trial) if not name.startswith("_")}
    internal = {"relative_params"}  # the sampler's business, with the coordinator
    assert public - internal <= set(dir(RemoteTrial))


def test_signatures_are_those_of_optuna() -> None:
    for name in ("suggest_float", "suggest_int", "suggest_categorical", "report", "set_user_attr"):
        ours = list(inspect.signature(getattr(RemoteTrial, name)).parameters)
        theirs = list(inspect.signature(getattr(Trial, name)).parameters)
        assert ours == theirs, name


def test_suggestions_are_the_real_trials_and_keep_their_types(
    live: LiveTrial, tmp_path: Path
) -> None:
    trial, _ = connected(live, tmp_path)
    values = {
        "a": trial.suggest_float("a", 0, 1),
        "b": trial.suggest_float("b", 1e-5, 1, log=True),
        "c": trial.suggest_int("c", 1, 9, step=2),
        "d": trial.suggest_categorical("d", ["x", None, 3, True]),
    }
    assert isinstance(values["c"], int)
    assert values == live.trial.params == trial.params
    assert trial.distributions == live.trial.distributions


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_a_choice_that_json_cannot_carry_is_the_objectives_own(
    live: LiveTrial, tmp_path: Path
) -> None:
    trial, _ = connected(live, tmp_path)
    choices: Any = [(1, 2), (3, 4)]
    assert trial.suggest_categorical("shape", choices) in choices


def test_parameters_of_the_task_cost_no_round_trip(live: LiveTrial, tmp_path: Path) -> None:
    live.trial.suggest_categorical("shape", ["a", "b"])
    live.trial.suggest_float("x", 0, 1)
    recorder = Recorder()
    trial = RemoteTrial(make_task(tmp_path, params=live.params()), recorder)
    assert trial.params == live.trial.params
    assert trial.suggest_float("x", 0, 1) == live.trial.params["x"]
    assert trial.suggest_categorical("shape", ["a", "b"]) == live.trial.params["shape"]
    assert recorder.sent == []


def test_another_distribution_for_a_known_name_is_refused_as_by_optuna(
    live: LiveTrial, tmp_path: Path
) -> None:
    trial, _ = connected(live, tmp_path)
    trial.suggest_float("x", 0, 1)
    with pytest.raises(ValueError, match="distribution kind"):
        trial.suggest_int("x", 0, 1)


def test_the_coordinators_refusal_is_a_value_error(live: LiveTrial, tmp_path: Path) -> None:
    live.trial.suggest_categorical("kind", ["a", "b"])
    trial, _ = connected(live, tmp_path)  # the task does not carry it: only the storage knows
    with pytest.raises(ValueError, match="dynamic value space"):
        trial.suggest_categorical("kind", ["a", "b", "c"])


def verdicts(prune_at: int) -> Recorder:
    return Recorder(
        lambda event: (
            Verdict(step=event.step, prune=event.step >= prune_at)
            if isinstance(event, Report)
            else None
        )
    )


def test_should_prune_is_the_verdict_on_the_last_report(tmp_path: Path) -> None:
    trial = RemoteTrial(make_task(tmp_path), verdicts(prune_at=2))
    assert trial.should_prune() is False  # nothing reported
    seen = []
    for step in range(3):
        trial.report(0.5, step)
        seen.append(trial.should_prune())
    assert seen == [False, False, True]
    assert trial.should_prune() is True  # asked again


def test_an_older_verdict_does_not_answer_a_newer_report(tmp_path: Path) -> None:
    trial = RemoteTrial(make_task(tmp_path), verdicts(prune_at=1))
    trial.report(0.5, 0)
    trial.report(0.5, 1)
    assert trial.should_prune() is True


def test_a_silent_coordinator_does_not_stop_training(tmp_path: Path) -> None:
    recorder = Recorder()
    trial = RemoteTrial(make_task(tmp_path), recorder, verdict_seconds=0.01)
    trial.report(0.5, 0)
    assert trial.should_prune() is False
    assert recorder.waits == [0.01]


def test_stop_ends_the_attempt_and_no_objective_swallows_it(tmp_path: Path) -> None:
    trial = RemoteTrial(make_task(tmp_path), Recorder(lambda event: Stop()))
    trial.report(0.5, 0)
    with pytest.raises(AttemptStopped):
        trial.should_prune()
    assert not issubclass(AttemptStopped, Exception)


@pytest.mark.parametrize(("value", "step"), [("text", 0), (None, 0), (1.0, "x"), (1.0, None)])
def test_report_refuses_what_optuna_refuses(tmp_path: Path, value: Any, step: Any) -> None:
    with pytest.raises(TypeError):
        optuna.create_study().ask().report(value, step)
    with pytest.raises(TypeError):
        RemoteTrial(make_task(tmp_path), Recorder()).report(value, step)


def test_a_negative_step_and_a_second_report_of_a_step(tmp_path: Path) -> None:
    recorder = Recorder()
    trial = RemoteTrial(make_task(tmp_path), recorder)
    with pytest.raises(ValueError, match="-1"):
        trial.report(1.0, -1)
    trial.report(1.0, 0)
    with pytest.warns(UserWarning, match="already reported"):
        trial.report(2.0, 0)
    assert [event.value for event in recorder.sent if isinstance(event, Report)] == [1.0]


def test_several_directions_have_no_reports_as_in_optuna(tmp_path: Path) -> None:
    trial = RemoteTrial(make_task(tmp_path, directions=("minimize", "maximize")), Recorder())
    with pytest.raises(NotImplementedError):
        trial.report(1.0, 0)
    with pytest.raises(NotImplementedError):
        trial.should_prune()


def test_user_attributes_must_be_json_and_small(tmp_path: Path) -> None:
    trial = RemoteTrial(make_task(tmp_path, user_attrs={"memo": "from outside"}), Recorder())
    with pytest.raises(TypeError):
        trial.set_user_attr("bad", object())
    with pytest.raises(ValueError, match="Write it to a file"):
        trial.set_user_attr("big", "x" * 2_000_000)
    with pytest.raises(ValueError, match="reserved"):
        trial.set_user_attr("attempts", [])
    trial.set_user_attr("good", {"a": (1, 2)})
    assert trial.user_attrs == {"memo": "from outside", "good": {"a": [1, 2]}}


def test_done_carries_everything(tmp_path: Path) -> None:
    trial = RemoteTrial(make_task(tmp_path), Recorder())
    trial.report(0.5, 1)
    trial.report(0.4, 2)
    trial.set_user_attr("a", 1)
    trial.set_constraint("c", -1)
    assert trial.constraints == {"c": -1.0}
    assert trial.done([0.3])(7) == Done(
        attempt="0.1.test",
        sequence=7,
        state="complete",
        values=(0.3,),
        curve=((1, 0.5), (2, 0.4)),
        user_attrs={"a": 1},
        constraints={"c": -1.0},
    )


def test_the_study_is_not_here_and_the_error_says_where(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="lives with the coordinator"):
        _ = RemoteTrial(make_task(tmp_path), Recorder()).study

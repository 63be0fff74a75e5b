"""When a study ends before its number of trials."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

import hpo
from hpo.attempts import read_attempts
from hpo.coordinator import INTERRUPTED
from hpo.errors import InputError
from hpo.executors.local import LocalExecutor
from hpo.settings import check
from hpo.study import Outcome, run_study
from tests.hpo.support import Watcher
from tests.hpo.test_coordinator import Bench


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hpo.coordinator.TICK_SECONDS", 0.01)
    return tmp_path


class Values:
    """An objective that returns given values, one a trial, and then zeros.

    Args:
        *values: What to return; ``None`` prunes the trial, an exception fails it.
        recall: The metric ``recall`` of every trial; ``None`` for no metrics at all.
    """

    direction = "maximize"
    study_name = "values"
    preload = ()

    def __init__(
        self, *values: float | Exception | None, recall: tuple[float, ...] | None = None
    ) -> None:
        self.values = values
        self.recall = recall
        self.calls: list[int] = []

    def __call__(self, trial: Any) -> float:
        self.calls.append(trial.number)
        trial.suggest_float("x", 0, 1)
        given = self.values[trial.number] if trial.number < len(self.values) else 0.0
        if self.recall is not None:
            recall = self.recall[trial.number] if trial.number < len(self.recall) else 0.0
            trial.set_user_attr("metrics", {"recall": recall})
        model = hpo.current_attempt().directory / "model"
        model.mkdir(exist_ok=True)
        (model / "weights").write_text(str(trial.number))
        trial.set_user_attr("model", str(model))
        if isinstance(given, Exception):
            raise given
        if given is None:
            raise optuna.TrialPruned
        return given


def go(objective: Callable[[Any], Any], say: Callable[[str], None] = print, **more: Any) -> Outcome:
    """Run a study inline, for at most 12 trials."""
    settings = check({"trials": 12, "executor": "inline", **more})
    return run_study(objective, None, settings, [Watcher()], say)


def lines_of(objective: Callable[[Any], Any], **more: Any) -> list[str]:
    """Return what a run says, without the space that lines it up."""
    lines: list[str] = []
    go(objective, lines.append, **more)
    return [" ".join(line.split()) for line in lines]


# A target.


def test_a_target_that_is_reached_ends_the_study_and_says_so() -> None:
    objective = Values(0.5, 0.6, 0.9, 0.95)
    outcome = go(objective, target=0.9)
    assert objective.calls == [0, 1, 2]
    assert outcome.reason == "trial 2 reached 0.9000 (--target 0.9)"
    assert outcome.status.best == (0.9, 2)


def test_a_target_that_was_reached_before_ends_the_study_at_once() -> None:
    go(Values(0.5, 0.9), trials=2)
    objective = Values()
    lines = lines_of(objective, target=0.8)
    assert objective.calls == []
    assert "end trial 1 reached 0.9000 (--target 0.8)" in lines
    assert "done 2 of 12 trials · 2 complete · 0 pruned · 0 failed" in lines


def test_a_target_is_for_feasible_trials() -> None:
    objective = Values(0.95, 0.9, 0.85, recall=(0.1, 0.2, 0.7))
    outcome = go(objective, target=0.8, require=["recall>=0.5"])
    assert objective.calls == [0, 1, 2]
    assert outcome.status.best == (0.85, 2)
    assert outcome.status.infeasible == 2


def test_a_target_of_what_is_minimised() -> None:
    objective = Values(0.5, 0.2, 0.1)
    objective.direction = "minimize"
    assert go(objective, target=0.25).reason.startswith("trial 1 reached 0.2000")


# Patience.


def test_patience_ends_a_study_that_gets_no_better() -> None:
    objective = Values(0.5, 0.7, None, 0.6, RuntimeError("an accident"), 0.7, 0.9)
    outcome = go(objective, patience=3)
    assert objective.calls == [0, 1, 2, 3, 4, 5]
    assert outcome.reason == "3 trials brought no improvement (--patience 3)"
    assert outcome.status.best == (0.7, 1)


def test_patience_goes_on_counting_where_the_last_run_stopped() -> None:
    go(Values(0.5, 0.4, 0.3), trials=3)
    objective = Values(*[0.1] * 10)
    lines = lines_of(objective, patience=4)
    assert objective.calls == [3, 4]
    assert "end 4 trials brought no improvement (--patience 4)" in lines
    again = Values()
    assert go(again, patience=4).reason == "4 trials brought no improvement (--patience 4)"
    assert again.calls == []
    more = Values(*[0.1] * 5, 0.9, 0.8)
    assert go(more, patience=8).status.best == (0.9, 5)
    assert len(more.calls) == 7  # the twelve of --trials come before eight without a better one


def test_infeasible_trials_are_no_improvement() -> None:
    objective = Values(0.5, 0.6, 0.7, 0.8, recall=(0.9, 0.1, 0.1, 0.1))
    outcome = go(objective, patience=3, require=["recall>=0.5"])
    assert objective.calls == [0, 1, 2, 3]
    assert outcome.status.best == (0.5, 0)


@pytest.mark.parametrize("rule", [{"target": 0.5}, {"patience": 3}])
def test_several_directions_have_neither(rule: dict[str, Any], here: Path) -> None:
    (name,) = rule
    with pytest.raises(InputError, match=f"{name} needs one best trial.*several directions"):
        go(lambda trial: (0.0, 1.0), study="s", direction=["minimize", "maximize"], **rule)
    assert list(here.iterdir()) == []


# The clock.


def test_a_study_whose_time_is_up_finishes_what_runs() -> None:
    def slow(trial: Any) -> float:
        time.sleep(0.15)
        return 0.0

    outcome = go(slow, study="s", timeout=0.2, trials=1000)
    assert outcome.reason == "the time is up"
    assert 1 <= outcome.status.complete == len(outcome.study.trials) < 10
    assert {trial.state.name for trial in outcome.study.trials} == {"COMPLETE"}


def test_a_study_that_reaches_its_number_of_trials_gives_no_reason() -> None:
    lines = lines_of(Values(), trials=2, patience=5, timeout=60, target=1.0)
    assert not any(line.startswith("end ") for line in lines)
    assert go(Values(), trials=2).reason == ""


def stuck(trial: Any) -> float:
    if trial.number == 0:
        time.sleep(60)
    return 0.0


@pytest.mark.slow
def test_an_attempt_that_runs_too_long_is_tried_again_and_then_fails(here: Path) -> None:
    bench = Bench(here)
    executor = LocalExecutor(here, workers=1)
    try:
        status = bench.run(
            stuck,
            trials=1,
            executor=executor,
            reference="tests.hpo.test_stopping:stuck",
            trial_timeout=0.6,
            retries=1,
        ).status
    finally:
        executor.close()
    assert bench.states() == ["FAIL", "COMPLETE"]
    attempts = read_attempts(bench.study.trials[0].user_attrs)
    assert [str(each.cause) for each in attempts] == ["timeout", "timeout"]
    assert {each.message for each in attempts} == {"it ran longer than 1 s"}
    assert (status.complete, status.failed) == (1, 1)


def test_inline_an_attempt_that_runs_too_long_ends_at_its_next_report(here: Path) -> None:
    def reports(trial: Any) -> float:
        for step in itertools.count():
            trial.report(0.0, step)
            if trial.number > 0:
                return 0.0
            trial.should_prune()
            time.sleep(0.02)
        raise AssertionError

    bench = Bench(here)
    bench.run(reports, trials=1, trial_timeout=0.2, retries=1)
    assert bench.states() == ["FAIL", "COMPLETE"]
    attempts = read_attempts(bench.study.trials[0].user_attrs)
    assert [str(each.cause) for each in attempts] == ["timeout", "timeout"]


def test_inline_an_attempt_that_asks_nothing_cannot_be_ended(here: Path) -> None:
    """A thread cannot be killed: such a trial takes its time, and its result counts."""

    def silent(trial: Any) -> float:
        time.sleep(0.3)
        return 0.0

    bench = Bench(here)
    bench.run(silent, trials=1, trial_timeout=0.1)
    assert bench.states() == ["COMPLETE"]


# From outside: whole processes.

WAITS = """
import time

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(6):
        time.sleep(0.1)
        trial.report(x, step)
    return x
"""


class Process:
    """``python -m hpo.run`` on an objective that takes its time."""

    def __init__(self, here: Path, *arguments: str) -> None:
        (here / "mine.py").write_text(WAITS)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "hpo.run", "--objective", "mine:objective"),
                *("--workers", "1", "--study", "s", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, word: str) -> None:
        """Read what it says until ``word``."""
        assert self.process.stdout is not None
        seen = ""
        for line in self.process.stdout:
            seen += line
            if word in line:
                return
        raise AssertionError(f"no {word!r} in {seen}")

    def end(self) -> str:
        """Wait for its end; return the rest of what it says."""
        return self.process.communicate(timeout=30)[0]


def trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="s", storage="sqlite:///hpo.db").trials


@pytest.mark.slow
def test_the_first_signal_lets_running_trials_finish(here: Path) -> None:
    run = Process(here, "--trials", "50")
    run.wait_for("step 1")
    run.process.send_signal(signal.SIGINT)
    out = run.end()
    assert run.process.returncode == 130, out
    assert f"{INTERRUPTED}: no further trials start; 1 running trials finish" in out
    assert "end   interrupted" in out
    assert [trial.state.name for trial in trials()] == ["COMPLETE"]


@pytest.mark.slow
def test_the_second_signal_stops_them_and_the_same_command_goes_on(here: Path) -> None:
    run = Process(here, "--trials", "50")
    run.wait_for("step 1")
    run.process.send_signal(signal.SIGTERM)
    run.wait_for("no further trials start")
    run.process.send_signal(signal.SIGTERM)
    out = run.end()
    assert run.process.returncode == 130, out
    assert "the same command goes on" in out
    (before,) = trials()
    assert before.state.name == "RUNNING"
    (attempt,) = read_attempts(before.user_attrs)
    assert str(attempt.cause) == "stopped"
    again = Process(here, "--trials", "50", "--target", "0.9999")
    out = again.end()
    assert again.process.returncode == 0, out  # a target that is reached is no interruption
    assert "end   trial 0 reached" in out
    (after,) = trials()
    assert (after.state.name, after.params) == ("COMPLETE", before.params)
    assert [str(each.cause) for each in read_attempts(after.user_attrs)] == ["stopped", "ok"]


def test_the_summary_says_what_ended_the_search_and_what_was_met() -> None:
    lines = lines_of(
        Values(0.2, 0.7, 0.9, recall=(0.9, 0.9, 0.1)),
        trials=5,
        target=0.6,
        timeout=3600.0,
        require=["recall>=0.5"],
    )
    assert "end trial 1 reached 0.7000 (--target 0.6)" in lines
    assert (
        "goals --target 0.6 reached by trial 1 (0.7000) · --require met by trial 1, the best · "
        "--timeout 60 min: this run took 0 s" in lines
    )
    assert "rules 2 of 2 complete trials meet recall>=0.5" in lines


def test_goals_that_were_missed_are_said_too() -> None:
    values = Values(0.2, 0.7, recall=(0.1, 0.1))
    lines = lines_of(values, trials=2, target=0.6, require=["recall>=0.5"], study="none")
    assert "goals --target 0.6 not reached: no trial counts · --require met by no trial" in lines
    lines = lines_of(Values(0.2, 0.3), trials=2, target=0.6, study="low")
    assert "goals --target 0.6 not reached: best 0.3000" in lines

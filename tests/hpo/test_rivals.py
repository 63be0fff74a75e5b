"""The study's lock is lost with its database, and another coordinator has been there meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from hpo.coordinator import Coordinator
from hpo.database import Database
from tests.hpo.support import Free
from tests.hpo.test_outages import Bench


@pytest.fixture(autouse=True)
def at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lost lock be noticed at once."""
    monkeypatch.setattr("hpo.database.FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("hpo.database.CHECK_SECONDS", 0.0)
    monkeypatch.setattr("hpo.coordinator.TICK_SECONDS", 0.001)


class Lost(Free):
    """The ownership of a study that is lost when a test says so."""

    def __init__(self) -> None:
        self.held = True

    def check(self) -> bool:
        return self.held


class Rival:
    """Owns the study for a moment, between two ownerships of the coordinator under test.

    Args:
        visit: What it does to the study meanwhile.
    """

    def __init__(self, visit: Callable[[], None]) -> None:
        self.visit = visit
        self.ownership = Lost()
        self.begun = False

    def own(self) -> Lost:
        if self.begun:
            self.visit()
        self.begun = True
        self.ownership = Lost()
        return self.ownership


def run_beside_a_rival(bench: Bench, visit: Callable[[], None], trials: int = 2) -> Coordinator:
    """Run a study whose lock is lost in the middle of trial 0, when a rival visits."""
    rival = Rival(visit)
    calls: list[int] = []

    def objective(trial: Any) -> float:
        calls.append(trial.number)
        if len(calls) > 1:
            return float(len(calls))
        trial.report(0.5, 0)
        trial.should_prune()
        rival.ownership.held = False
        for step in range(1, 1000):
            trial.report(0.5, step)
            if trial.should_prune():
                break
            time.sleep(0.005)
        return -1.0  # of a superseded attempt: never to be told

    database = Database(rival.own)
    coordinator = bench.coordinator(objective, database=database, trials=trials)
    coordinator.run()
    return coordinator


def test_an_attempt_that_another_coordinator_superseded_is_stopped_and_not_told(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, InMemoryStorage())

    def visit() -> None:
        trial_id = bench.storage.get_trial_id_from_study_id_trial_number(0, 0)
        attempts = bench.storage.get_trial(trial_id).user_attrs["attempts"]
        attempts = [
            {**attempts[0], "end": "t", "cause": "lost", "message": "the coordinator ended"},
            {"id": "0.2.rival", "start": "t"},
        ]
        bench.storage.set_trial_user_attr(trial_id, "attempts", attempts)

    coordinator = run_beside_a_rival(bench, visit)
    assert "trial 0 was taken over" in bench.watcher.texts("stop")
    assert [trial.state.name for trial in bench.study.trials] == ["COMPLETE"] * 2
    assert -1.0 not in [trial.value for trial in bench.study.trials]
    assert bench.causes(0) == ["lost", "lost", "ok"]
    assert coordinator.status.complete == 2


def test_a_trial_that_another_coordinator_finished_stays_as_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path, InMemoryStorage())

    def visit() -> None:
        trial_id = bench.storage.get_trial_id_from_study_id_trial_number(0, 0)
        attempts = [
            *bench.storage.get_trial(trial_id).user_attrs["attempts"],
            {"id": "0.2.rival", "start": "t", "end": "t", "cause": "ok", "values": [7.0]},
        ]
        bench.storage.set_trial_user_attr(trial_id, "attempts", attempts)
        bench.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [7.0])

    coordinator = run_beside_a_rival(bench, visit)
    assert [trial.state.name for trial in bench.study.trials] == ["COMPLETE"] * 2
    assert bench.study.trials[0].value == 7.0
    assert bench.causes(0)[-1] == "ok"
    assert coordinator.status.complete == 2


def test_a_study_that_a_rival_has_finished_is_finished(tmp_path: Path) -> None:
    bench = Bench(tmp_path, InMemoryStorage())

    def visit() -> None:
        trial_id = bench.storage.get_trial_id_from_study_id_trial_number(0, 0)
        bench.storage.set_trial_user_attr(trial_id, "attempts", [{"id": "0.2.b", "start": "t"}])
        bench.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [7.0])
        for value in (8.0, 9.0):
            bench.study.tell(bench.study.ask(), value)

    coordinator = run_beside_a_rival(bench, visit, trials=3)
    assert [trial.value for trial in bench.study.trials] == [7.0, 8.0, 9.0]
    assert coordinator.status.complete == 3


def test_a_trial_that_was_told_during_an_outage_is_no_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path, InMemoryStorage())

    def visit() -> None:  # a person at the dashboard, who leaves the attempts alone
        trial_id = bench.storage.get_trial_id_from_study_id_trial_number(0, 0)
        bench.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    coordinator = run_beside_a_rival(bench, visit)
    assert [trial.state.name for trial in bench.study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert (coordinator.status.complete, coordinator.status.failed) == (2, 1)

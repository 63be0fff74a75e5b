"""The database goes away at any of its calls, before or after it did what was asked."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage

from hpo.attempts import read_attempts
from hpo.coordinator import Coordinator
from hpo.database import Database
from hpo.executors.inline import InlineExecutor
from hpo.notes import Notes
from hpo.plan import Plan
from hpo.protocol import Cause, ObjectiveSpec
from hpo.requirements import parse_requirements
from hpo.status import Observer
from tests.hpo.support import Free, Watcher

TRIALS = 6


def objective(trial: Any) -> float:
    x: float = trial.suggest_float("x", 0, 1)
    kind = trial.suggest_categorical("kind", ["plain", "odd"])
    trial.set_user_attr("metrics", {"recall": x})
    for step in range(3):
        trial.report(x * step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    if kind == "odd":
        trial.suggest_int("n", 1, 3)
    return x


class Flaky(InMemoryStorage):
    """A storage that is away for a few of its calls.

    Args:
        first: The number of the first call that fails; ``None`` for none.
        calls: How many calls fail in a row.
        answered: Whether the first of them does its work and only its answer is lost.
    """

    def __init__(self, first: int | None = None, calls: int = 1, answered: bool = False) -> None:
        super().__init__()
        self.armed = False
        self.count = 0
        self._first, self._calls, self._answered = first, calls, answered
        self._inside = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        own = ("count", "armed", "leave", "come_back")
        if name.startswith("_") or name in own or not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.armed or self._inside:
                return found(*args, **kwargs)
            self._inside = True
            try:
                return self._fail_or_do(lambda: found(*args, **kwargs))
            finally:
                self._inside = False

        return call

    def leave(self) -> None:
        """Be away from the next call on."""
        self.armed, self._first, self._calls = True, self.count + 1, 10**9

    def come_back(self) -> None:
        """Be there again, whatever was asked for."""
        self.armed = False

    def _fail_or_do(self, do: Callable[[], Any]) -> Any:
        self.count += 1
        if self._first is None or not self._first <= self.count < self._first + self._calls:
            return do()
        if self._answered and self.count == self._first:
            do()
        raise StorageInternalError("away") from sqlite3.OperationalError("database is locked")


class Bench:
    """A study on a storage that may be flaky."""

    def __init__(self, directory: Path, storage: InMemoryStorage, grace: float = 60.0) -> None:
        self.directory = directory
        self.storage = storage
        self.grace = grace
        self.watcher = Watcher()
        self.study = optuna.create_study(
            storage=storage,
            study_name="s",
            sampler=optuna.samplers.RandomSampler(seed=1),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
        )

    def coordinator(
        self,
        objective: Callable[[Any], Any] = objective,
        database: Database | None = None,
        trials: int = TRIALS,
        observers: Sequence[Observer] = (),
        **plan: Any,
    ) -> Coordinator:
        todo = Plan(
            study="s",
            trials=trials,
            spec=ObjectiveSpec(reference="here:objective"),
            directory=self.directory,
            seed=0,
            **plan,
        )
        return Coordinator(
            self.study,
            self.storage,
            database or Database(Free, self.grace),
            objective,
            InlineExecutor(objective),
            todo,
            # The notes write to the storage, too.
            [self.watcher, *observers, Notes(self.study, self.storage, todo)],
        )

    def causes(self, number: int) -> list[str]:
        """Return how the attempts of a trial ended, oldest first; the empty string if open."""
        attempts = read_attempts(self.study.trials[number].user_attrs)
        return [str(each.cause or "") for each in attempts]

    @property
    def journal(self) -> Path:
        return self.directory / "unwritten.jsonl"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.database.FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("hpo.coordinator.TICK_SECONDS", 0.001)


def calls_of_a_quiet_run(directory: Path) -> int:
    """Return how many calls a run without outages makes."""
    storage = Flaky()
    bench = Bench(directory, storage)
    coordinator = bench.coordinator(requirements=parse_requirements(["recall>=0.3"]))
    storage.armed = True
    coordinator.run()
    return storage.count


@pytest.mark.slow
@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("calls", [1, 5])
def test_an_outage_at_any_call_changes_nothing(tmp_path: Path, calls: int, answered: bool) -> None:
    count = calls_of_a_quiet_run(tmp_path / "quiet")
    assert count > 100
    for first in range(1, count + 1):
        storage = Flaky(first, calls, answered)
        bench = Bench(tmp_path / str(first), storage)
        coordinator = bench.coordinator(requirements=parse_requirements(["recall>=0.3"]))
        storage.armed = True
        coordinator.run()
        storage.armed = False
        trials = bench.study.trials
        assert [t.number for t in trials] == list(range(len(trials))), first
        assert sum(t.state.name in ("COMPLETE", "PRUNED") for t in trials) == TRIALS, first
        assert all(t.state.is_finished() for t in trials), first
        for trial in trials:
            if trial.state.name == "COMPLETE":
                assert trial.value == trial.params["x"], first
                assert trial.constraints.keys() == {"recall>=0.3"}, first
                assert len(trial.intermediate_values) == 3, first
            causes = [each.cause for each in read_attempts(trial.user_attrs)]
            assert sum(cause in (Cause.OK, Cause.PRUNED) for cause in causes) == 1, (first, causes)
        assert not (tmp_path / str(first) / "unwritten.jsonl").exists()


class Demanding:
    """An objective that samples in the coordinator, has a baseline, and fails now and then."""

    def suggest(self, trial: Any) -> None:
        trial.suggest_float("x", 0, 1)

    def baselines(self) -> list[dict[str, Any]]:
        return [{"model": "plain"}]

    def baseline(self, trial: Any) -> float:
        trial.suggest_categorical("model", ["plain"])
        return 0.5

    def __call__(self, trial: Any) -> float:
        x: float = trial.suggest_float("x", 0, 1)
        trial.report(x, 0)
        trial.should_prune()
        if trial.number % 4 == 1:
            raise MemoryError("too large")
        return x


def leave_unfinished_trials(study: optuna.Study) -> None:
    """Leave what coordinators leave that are killed at one instant or another."""
    open_attempt = {"id": "0.1.a", "start": "2026-01-01T00:00:00.000+00:00", "handle": {}}
    ended = {"start": "2026-01-01T00:00:00.000+00:00", "end": "2026-01-01T00:00:00.000+00:00"}
    left: list[list[dict[str, Any]]] = [
        [open_attempt],
        [{**ended, "id": "1.1.a", "cause": "bug", "message": "no good"}],
        [{**ended, "id": "2.1.a", "cause": "ok", "values": [0.25]}],
        [{**ended, "id": "3.1.a", "cause": "stopped"}],
        [],  # asked, and nothing more
    ]
    for attempts in left:
        trial = study.ask()
        if attempts:
            trial.suggest_float("x", 0, 1)
            trial.set_user_attr("attempts", attempts)


def run_resumed(directory: Path, storage: Flaky) -> tuple[Bench, Coordinator]:
    bench = Bench(directory, storage)
    leave_unfinished_trials(bench.study)
    coordinator = bench.coordinator(Demanding())
    storage.armed = True
    coordinator.run()
    storage.armed = False
    return bench, coordinator


@pytest.mark.slow
@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_an_outage_at_any_call_of_a_resumed_study_changes_nothing(
    tmp_path: Path, answered: bool
) -> None:
    storage = Flaky()
    run_resumed(tmp_path / "quiet", storage)
    assert storage.count > 50
    for first in range(1, storage.count + 1):
        bench, coordinator = run_resumed(tmp_path / str(first), Flaky(first, 2, answered))
        trials = bench.study.trials
        states = [trial.state.name for trial in trials]
        assert states.count("COMPLETE") == TRIALS, (first, states)
        assert [n for n, state in enumerate(states) if state == "FAIL"] == list(
            range(1, len(trials), 4)
        ), (first, states)
        assert set(states) == {"COMPLETE", "FAIL"}, (first, states)
        status = coordinator.status
        assert (status.complete, status.failed) == (TRIALS, states.count("FAIL")), first
        # An attempt that was written down just before the outage never began: it is lost.
        ends = [[end for end in bench.causes(n) if end != "lost"] for n in range(len(trials))]
        assert ends[:4] == [["ok"], ["bug"], ["ok"], ["stopped", "ok"]], first
        assert all(len(each) == 1 for each in ends[4:]), first
        assert bench.causes(1) + bench.causes(2) == ["bug", "ok"], first
        assert trials[2].value == 0.25, first
        assert [each["value"] for each in bench.study.user_attrs["baselines"]] == [0.5], first
        assert not bench.journal.exists(), first

"""The database goes away at any of its calls, before or after it did what was asked."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
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
from hpo.plan import Plan
from hpo.protocol import Cause, ObjectiveSpec
from hpo.requirements import parse_requirements
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
        if name.startswith("_") or name in ("count", "armed") or not callable(found):
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
        **plan: Any,
    ) -> Coordinator:
        return Coordinator(
            self.study,
            self.storage,
            database or Database(Free, self.grace),
            objective,
            InlineExecutor(objective),
            Plan(
                study="s",
                trials=TRIALS,
                spec=ObjectiveSpec(reference="here:objective"),
                directory=self.directory,
                seed=0,
                **plan,
            ),
            [self.watcher],
        )


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.database.FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("hpo.coordinator.TICK_SECONDS", 0.001)


def calls_of_a_quiet_run(directory: Path) -> int:
    """Return how many calls a run without outages makes."""
    storage = Flaky()
    bench = Bench(directory, storage)
    storage.armed = True
    bench.coordinator(requirements=parse_requirements(["recall>=0.3"])).run()
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
        storage.armed = True
        bench.coordinator(requirements=parse_requirements(["recall>=0.3"])).run()
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

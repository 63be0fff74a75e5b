"""An outage that lasts: what was heard waits in a file, also for the next coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from hpo.errors import StudyStoppedError
from hpo.journal import Journal
from hpo.protocol import AnyEvent, Cause, Done, Failed, Report
from hpo.requirements import parse_requirements
from tests.hpo.test_outages import Bench, Flaky

TIME = "2026-01-01T00:00:00.000+00:00"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.database.FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("hpo.coordinator.TICK_SECONDS", 0.001)


class Leaves:
    """An objective during whose last step the database goes away.

    Args:
        storage: The database.
        number: In which trial.
    """

    def __init__(self, storage: Flaky, number: int = 1) -> None:
        self.storage = storage
        self.number = number
        self.calls: list[int] = []

    def __call__(self, trial: Any) -> float:
        self.calls.append(trial.number)
        x: float = trial.suggest_float("x", 0, 1)
        trial.report(x / 2, 0)
        trial.should_prune()
        if trial.number == self.number:
            self.storage.leave()
        trial.report(x, 1)
        trial.set_user_attr("memo", "mine")
        return x


def test_what_an_outage_keeps_back_is_written_by_the_next_coordinator(tmp_path: Path) -> None:
    storage = Flaky()
    bench = Bench(tmp_path, storage, grace=0.3)
    leaves = Leaves(storage)
    coordinator = bench.coordinator(leaves, trials=3)
    with pytest.raises(StudyStoppedError) as caught:
        coordinator.run()
    message = str(caught.value)
    assert "--db-grace" in message
    assert "the same command writes them" in message
    assert str(bench.journal) in message
    kept = Journal(bench.journal)
    assert message.count(f"{len(kept)} events") == 1
    assert bench.watcher.texts("end") == [message]
    assert any("the database is away" in text for text in bench.watcher.texts("database"))
    storage.come_back()
    assert [trial.state.name for trial in bench.study.trials] == ["COMPLETE", "RUNNING"]

    bench.coordinator(leaves, trials=3).run()
    trials = bench.study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert leaves.calls == [0, 1, 2]  # trial 1 was not run again
    for trial in trials:
        assert trial.value == trial.params["x"]
        assert trial.intermediate_values == {0: trial.params["x"] / 2, 1: trial.params["x"]}
        assert trial.user_attrs["memo"] == "mine"
    assert bench.causes(1) == ["ok"]
    assert not bench.journal.exists()


def test_a_report_in_the_file_is_kept_even_if_its_attempt_got_no_further(tmp_path: Path) -> None:
    bench = Bench(tmp_path, InMemoryStorage())
    trial = bench.study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("attempts", [{"id": "0.1.a", "start": TIME}])
    Journal(bench.journal).append(Report(attempt="0.1.a", sequence=4, step=7, value=0.5))
    bench.coordinator(lambda trial: 1.0, trials=1).run()
    (after,) = bench.study.trials
    assert after.intermediate_values == {7: 0.5}
    assert bench.causes(0) == ["lost", "ok"]
    assert not bench.journal.exists()


def event_in_file(kind: str, attempt: str) -> AnyEvent:
    if kind == "done":
        return Done(attempt=attempt, sequence=9, state="complete", values=(99.0,))
    return Failed(attempt=attempt, sequence=9, cause=Cause.BUG, message="of another life")


@pytest.mark.parametrize("kind", ["done", "failed"])
def test_a_file_whose_attempts_were_superseded_is_dropped(tmp_path: Path, kind: str) -> None:
    bench = Bench(tmp_path, InMemoryStorage())
    finished, again = bench.study.ask(), bench.study.ask()
    finished.set_user_attr("attempts", [{"id": "0.1.a", "start": TIME, "end": TIME, "cause": "ok"}])
    bench.study.tell(finished, 0.25)
    again.set_user_attr(
        "attempts",
        [
            {"id": "1.1.a", "start": TIME, "end": TIME, "cause": "lost"},
            {"id": "1.2.b", "start": TIME},
        ],
    )
    journal = Journal(bench.journal)
    for attempt in ("0.1.a", "1.1.a", "7.1.of-a-trial-that-is-gone"):
        journal.append(event_in_file(kind, attempt))
    status_of = bench.coordinator(lambda trial: 0.5, trials=3)
    status_of.run()
    assert [trial.value for trial in bench.study.trials] == [0.25, 0.5, 0.5]
    assert bench.causes(0) == ["ok"]
    assert bench.causes(1) == ["lost", "lost", "ok"]
    assert (status_of.status.complete, status_of.status.failed) == (3, 0)
    assert not bench.journal.exists()


@pytest.mark.parametrize("cause", ["bug", "out-of-memory", "diverged", "bad-input"])
def test_a_failure_in_the_file_fails_its_trial(tmp_path: Path, cause: str) -> None:
    bench = Bench(tmp_path, InMemoryStorage())
    bench.study.ask().set_user_attr("attempts", [{"id": "0.1.a", "start": TIME}])
    Journal(bench.journal).append(
        Failed(attempt="0.1.a", sequence=1, cause=Cause(cause), message="no good")
    )
    bench.coordinator(lambda trial: 1.0, trials=1).run()
    assert [trial.state.name for trial in bench.study.trials] == ["FAIL", "COMPLETE"]
    assert bench.causes(0) == [cause]
    assert not bench.journal.exists()


@pytest.mark.parametrize("cause", ["stopped", "lost", "timeout"])
def test_an_attempt_that_ended_in_the_file_is_followed_by_another(
    tmp_path: Path, cause: str
) -> None:
    bench = Bench(tmp_path, InMemoryStorage())
    bench.study.ask().set_user_attr("attempts", [{"id": "0.1.a", "start": TIME}])
    Journal(bench.journal).append(
        Failed(attempt="0.1.a", sequence=1, cause=Cause(cause), message="it ended")
    )
    bench.coordinator(lambda trial: 1.0, trials=1).run()
    assert [trial.state.name for trial in bench.study.trials] == ["COMPLETE"]
    assert bench.causes(0) == [cause, "ok"]


def test_a_result_in_the_file_is_judged_like_any_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path, InMemoryStorage())
    bench.study.ask().set_user_attr("attempts", [{"id": "0.1.a", "start": TIME}])
    Journal(bench.journal).append(
        Done(
            attempt="0.1.a",
            sequence=1,
            state="complete",
            values=(0.0,),
            user_attrs={"metrics": {"recall": 0.25}},
        )
    )
    coordinator = bench.coordinator(trials=1, requirements=parse_requirements(["recall>=0.5"]))
    coordinator.run()
    assert bench.study.trials[0].constraints == {"recall>=0.5": 0.25}
    assert coordinator.status.infeasible == 1
    assert coordinator.status.best is None


def test_a_coordinator_that_is_interrupted_during_an_outage_keeps_what_it_heard(
    tmp_path: Path,
) -> None:
    storage = Flaky()
    bench = Bench(tmp_path, storage)
    leaves = Leaves(storage, number=0)

    class Impatient:
        """Presses Ctrl-C twice once the result is in the file."""

        def on(self, moment: Any, status: Any) -> None:
            pass

        def tick(self, status: Any) -> None:
            if bench.journal.exists() and b'"done"' in bench.journal.read_bytes():
                coordinator.interrupt()

        def close(self) -> None:
            pass

    coordinator = bench.coordinator(leaves, trials=1, observers=[Impatient()])
    with pytest.raises(StudyStoppedError, match="the database is away: database is locked"):
        coordinator.run()
    storage.come_back()
    bench.coordinator(leaves, trials=1).run()
    assert leaves.calls == [0]
    assert [trial.state.name for trial in bench.study.trials] == ["COMPLETE"]


def test_a_pruned_trial_hears_so_after_the_outage_or_ends_by_itself(tmp_path: Path) -> None:
    storage = Flaky()
    bench = Bench(tmp_path, storage)

    def worse_and_worse(trial: Any) -> float:
        for step in range(40):
            trial.report(float(trial.number), step)
            if trial.number == 3 and step == 1:
                storage.leave()
            if trial.number == 3 and step == 30:
                storage.come_back()
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(trial.number)

    bench.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3)
    bench.coordinator(worse_and_worse, trials=4).run()
    trial = bench.study.trials[3]
    assert trial.state.name == "PRUNED"
    assert 30 <= max(trial.intermediate_values) < 39
    assert sorted(trial.intermediate_values) == list(range(max(trial.intermediate_values) + 1))

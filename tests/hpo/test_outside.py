"""What others did to a study: an earlier coordinator that was killed, a person at the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpo.executors import Handle
from hpo.protocol import AnyEvent, AnyReply, Cause, Done, Failed, Report, Started, Task, Verdict
from hpo.status import Moment, Status
from tests.hpo.support import Watcher
from tests.hpo.test_coordinator import Bench, done


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("hpo.coordinator.TICK_SECONDS", 0.001)
    return Bench(tmp_path)


class Script:
    """An executor that says what a test tells it to.

    Args:
        *turns: What each call of ``events`` returns, from all tasks so far.
        capacity: How many attempts it takes.
        attached: Whether it finds attempts of an earlier coordinator.
    """

    description = "scripted"
    worst_case = 0.0

    def __init__(
        self,
        *turns: Callable[[list[Task]], list[AnyEvent]],
        capacity: int = 1,
        attached: bool = False,
    ) -> None:
        self.capacity = capacity
        self.turns = list(turns)
        self.attached = attached
        self.tasks: list[Task] = []
        self.handles: list[Handle] = []
        self.stopped: list[str] = []
        self.ends: list[AnyEvent] = []
        self.replies: list[AnyReply] = []

    def submit(self, task: Task) -> Handle:
        self.tasks.append(task)
        return {"call": task.attempt}

    def attach(self, task: Task, handle: Handle) -> bool:
        self.handles.append(handle)
        if self.attached:
            self.tasks.append(task)
        return self.attached

    def events(self, timeout: float) -> list[AnyEvent]:
        if self.ends:
            ends, self.ends = self.ends, []
            return ends
        return self.turns.pop(0)(self.tasks)

    def reply(self, attempt: str, reply: AnyReply) -> None:
        self.replies.append(reply)

    def stop(self, attempt: str) -> None:
        self.stopped.append(attempt)
        end = Failed(attempt=attempt, sequence=999, cause=Cause.STOPPED, message="stopped")
        self.ends.append(end)

    def other_costs(self) -> float:
        return 0.0

    def discard(self, place: str) -> None:
        pass

    def close(self) -> None:
        pass


def elsewhere(bench: Bench, number: int, state: TrialState, *values: float) -> None:
    """Tell a trial as another program does, with a study object of its own."""
    study = optuna.load_study(study_name=bench.study.study_name, storage=bench.storage)
    study.tell(number, list(values) or None, state=state)


def report(task: Task, sequence: int, step: int = 0) -> Report:
    return Report(attempt=task.attempt, sequence=sequence, step=step, value=0.5)


def started(task: Task, sequence: int = 0) -> Started:
    return Started(attempt=task.attempt, sequence=sequence, machine="m", process=1, device="cpu")


# Told from outside, while a trial runs or waits.


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED])
@pytest.mark.parametrize("kind", ["report", "done", "failed"])
def test_a_running_trial_that_was_ended_from_outside_is_stopped(
    bench: Bench, state: TrialState, kind: str
) -> None:
    def ends(tasks: list[Task]) -> list[AnyEvent]:
        elsewhere(bench, 0, state, *([7.0] if state is TrialState.COMPLETE else []))
        events: dict[str, AnyEvent] = {
            "report": report(tasks[0], 1, step=1),
            "done": done(tasks[0], 9.0, 1),
            "failed": Failed(
                attempt=tasks[0].attempt, sequence=1, cause=Cause.BUG, message="no good"
            ),
        }
        return [events[kind]]

    executor = Script(
        lambda tasks: [started(tasks[0])],
        ends,
        lambda tasks: [done(tasks[1], 1.0)],
        lambda tasks: [done(tasks[2], 2.0)],
    )
    counts = {TrialState.FAIL: (2, 0, 1), TrialState.COMPLETE: (2, 0, 0)}
    status = bench.run(lambda trial: 0.0, trials=2, executor=executor).status
    assert executor.stopped == [executor.tasks[0].attempt]
    assert bench.watcher.texts("stop") == ["trial 0 was ended from outside"]
    first = bench.study.trials[0]
    assert (first.state, first.value) == (state, 7.0 if state is TrialState.COMPLETE else None)
    assert bench.study.trials[1].value == 1.0
    assert (status.complete, status.pruned, status.failed) == counts.get(state, (1, 1, 0))
    assert status.finished == 2


def test_two_running_trials_that_were_ended_from_outside_at_once(bench: Bench) -> None:
    def ends(tasks: list[Task]) -> list[AnyEvent]:
        elsewhere(bench, 0, TrialState.FAIL)
        elsewhere(bench, 1, TrialState.FAIL)
        return [report(tasks[0], 1)]

    def goes_on(tasks: list[Task]) -> list[AnyEvent]:
        return [report(tasks[1], 1), *(done(task, 1.0) for task in tasks[2:])]

    executor = Script(
        lambda tasks: [started(tasks[0]), started(tasks[1])],
        *(ends, goes_on, goes_on, goes_on),
        capacity=2,
    )
    status = bench.run(lambda trial: 0.0, trials=2, executor=executor).status
    assert sorted(executor.stopped) == sorted(task.attempt for task in executor.tasks[:2])
    assert bench.states() == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert (status.complete, status.failed) == (2, 2)


def test_a_waiting_trial_that_was_ended_from_outside_is_not_tried_again(bench: Bench) -> None:
    def lost(tasks: list[Task]) -> list[AnyEvent]:
        return [Failed(attempt=tasks[0].attempt, sequence=0, cause=Cause.LOST, message="gone")]

    class Person(Watcher):
        """Fails the trial at the dashboard while it waits for another attempt."""

        def on(self, moment: Moment, status: Status) -> None:
            if moment.kind == "retry":
                elsewhere(bench, 0, TrialState.FAIL)

    executor = Script(lost, lambda tasks: [done(tasks[1], 1.0)])
    bench.watcher = Person()
    status = bench.run(lambda trial: 0.0, trials=1, executor=executor).status
    assert [task.number for task in executor.tasks] == [0, 1]
    assert bench.states() == ["FAIL", "COMPLETE"]
    assert (status.complete, status.failed) == (1, 1)


def test_an_interrupted_coordinator_leaves_what_was_ended_from_outside(bench: Bench) -> None:
    def interrupts(tasks: list[Task]) -> list[AnyEvent]:
        elsewhere(bench, 0, TrialState.FAIL)
        coordinator.interrupt()
        return []

    executor = Script(lambda tasks: [started(tasks[0])], interrupts)
    coordinator = bench.coordinator(lambda trial: 0.0, trials=1, executor=executor)
    coordinator.run()
    assert bench.states() == ["FAIL"]


# What an earlier coordinator left when it was killed.


@pytest.mark.parametrize("cause", ["bug", "out-of-memory", "diverged", "bad-input"])
def test_a_failure_that_was_heard_but_not_told_is_not_run_again(bench: Bench, cause: str) -> None:
    bench.study.ask().set_user_attr(
        "attempts",
        [{"id": "0.1.a", "start": "t", "end": "t", "cause": cause, "message": "no good"}],
    )
    status = bench.run(lambda trial: float(trial.number), trials=1).status
    assert [trial.state.name for trial in bench.study.trials] == ["FAIL", "COMPLETE"]
    assert (status.complete, status.failed) == (1, 1)
    assert bench.watcher.texts("failed") == [f"trial 0 failed ({cause}): no good"]


def open_trial(bench: Bench) -> None:
    trial = bench.study.ask()
    trial.report(0.25, 1)
    trial.set_user_attr("attempts", [{"id": "0.1.a", "start": "t", "handle": {"call": "0.1.a"}}])


def test_an_attempt_that_still_runs_is_attached_and_its_events_go_on(bench: Bench) -> None:
    open_trial(bench)
    executor = Script(
        lambda tasks: [report(tasks[0], 40, step=2)],
        lambda tasks: [
            Done(
                attempt=tasks[0].attempt,
                sequence=41,
                state="complete",
                values=(3.0,),
                curve=((1, 0.25), (2, 0.5)),
            )
        ],
        attached=True,
    )
    status = bench.run(lambda trial: 0.0, trials=1, executor=executor).status
    assert executor.handles == [{"call": "0.1.a"}]
    assert [task.attempt for task in executor.tasks] == ["0.1.a"]  # attached, not submitted
    assert executor.replies == [Verdict(step=2, prune=False)]
    (trial,) = bench.study.trials
    assert (trial.value, trial.intermediate_values) == (3.0, {1: 0.25, 2: 0.5})
    assert [record["cause"] for record in trial.user_attrs["attempts"]] == ["ok"]
    assert bench.watcher.texts("retry") == ["trial 0 is taken up while it runs"]
    assert status.complete == 1


def test_an_attached_attempt_takes_a_place(bench: Bench) -> None:
    open_trial(bench)
    executor = Script(
        lambda tasks: [done(tasks[0], 1.0)], lambda tasks: [done(tasks[1], 2.0)], attached=True
    )
    bench.run(lambda trial: 0.0, trials=2, executor=executor)
    assert [trial.value for trial in bench.study.trials] == [1.0, 2.0]
    assert [task.number for task in executor.tasks] == [0, 1]


def test_an_attempt_that_is_gone_is_lost_and_tried_again(bench: Bench) -> None:
    open_trial(bench)
    executor = Script(lambda tasks: [done(tasks[0], 1.0)])
    bench.run(lambda trial: 0.0, trials=1, executor=executor)
    (trial,) = bench.study.trials
    assert [record["cause"] for record in trial.user_attrs["attempts"]] == ["lost", "ok"]
    assert executor.tasks[0].resume
    assert trial.intermediate_values == {1: 0.25}
